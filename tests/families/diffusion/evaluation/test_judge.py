"""The judge gives what the stock model gives, for every kind of judge, and names what is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import CLIPModel, SiglipModel

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.evaluation.judge import Judge
from tests.support import tiny


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (64, 64 + 16 * (i % 2), 3), dtype=np.uint8) for i in range(3)]


def test_judge_embeds_as_the_stock_clip_does(tmp_path: Path) -> None:
    folder = tiny.make_random_judge(tmp_path / "judge")
    judge = Judge(folder)
    images = pictures()
    texts = ["indigo circles", "a much longer caption than the thirty-two tokens of this judge"]
    seen, read = judge.embed_images(images), judge.embed_texts(texts)
    assert seen.shape == (3, tiny.WIDTH) and seen.dtype == np.float32
    assert np.linalg.norm(np.concatenate([seen, read]), axis=1) == pytest.approx(1.0, abs=1e-5)

    pixels = judge.processor(images=images, return_tensors="pt")
    words = judge.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = CLIPModel.from_pretrained(folder)(**words, **pixels)
    assert seen == pytest.approx(output.image_embeds.numpy(), abs=1e-5)
    assert read == pytest.approx(output.text_embeds.numpy(), abs=1e-5)
    assert judge.embed_images([]).shape == (0, tiny.WIDTH)


def test_judge_embeds_as_the_stock_siglip_does(tmp_path: Path) -> None:
    folder = tiny.make_random_siglip(tmp_path / "judge")
    judge = Judge(folder)
    images, texts = pictures(), ["indigo rings", "rings " * 20]
    seen, read = judge.embed_images(images), judge.embed_texts(texts)
    assert seen.shape == (3, tiny.WIDTH) and read.dtype == np.float32

    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.enable_truncation(8)
    words.enable_padding(length=8, pad_id=0, pad_token="</s>")
    tokens = torch.tensor([encoding.ids for encoding in words.encode_batch(texts)])
    pixels = judge.processor(images=images, return_tensors="pt").pixel_values
    assert pixels.shape[2:] == (64, 64) and -1 <= pixels.min() < pixels.max() <= 1
    with torch.no_grad():
        output = SiglipModel.from_pretrained(folder)(input_ids=tokens, pixel_values=pixels)
    assert seen == pytest.approx(output.image_embeds.numpy(), abs=1e-5)
    assert read == pytest.approx(output.text_embeds.numpy(), abs=1e-5)
    assert judge.embed_texts(["INDIGO Rings"]) == pytest.approx(read[:1], abs=1e-6)
    assert judge.embed_texts([]).shape == (0, tiny.WIDTH)


def test_judge_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        Judge(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        UserError, match=r"'bert' model; evaluation\.judge needs a CLIP or a SigLIP"
    ):
        Judge(tmp_path)


def test_judge_with_a_part_missing_is_named(tmp_path: Path) -> None:
    siglip = tiny.make_random_siglip(tmp_path / "siglip")
    (siglip / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"lacks tokenizer\.json"):
        Judge(siglip)
    for name in ("model.safetensors", "preprocessor_config.json"):
        clip = tiny.make_random_judge(tmp_path / name)
        (clip / name).unlink()
        with pytest.raises(UserError, match=f"judge in {clip} cannot be loaded") as refused:
            Judge(clip)
        assert "\n" not in str(refused.value)
    tokenless = tiny.make_random_siglip(tmp_path / "tokenless")
    (tokenless / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="no padding token"):
        Judge(tokenless)
