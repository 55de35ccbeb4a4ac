"""The tiny base model: its corpus, and its training from nothing to a stock pipeline."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from adire_assets.core.errors import UserError
from adire_assets.embedded.base import train as training
from adire_assets.embedded.base.autoencoder import (
    build_autoencoder,
    encode_images,
    normalise_latents,
)
from adire_assets.embedded.base.corpus import LABELS, draw_generic, draw_style
from adire_assets.embedded.base.judge import STYLE_TOKEN, WHOLE_WORDS, build_tokenizer
from adire_assets.embedded.base.optimizer import SplitOptimizer
from adire_assets.embedded.base.pattern_images import draw_pattern
from adire_assets.embedded.base.patterns import (
    BORDERS,
    CELL_MOTIFS,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    FINISHES,
    MOTIF_WORDS,
    Pattern,
    choose_pattern,
)
from adire_assets.embedded.base.stages import Loop
from adire_assets.embedded.base.unet import UnetSettings, build_unet, train_unet


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from more, and lose much beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(output, work) of one smoke-sized training."""
    folder = tmp_path_factory.mktemp("tiny")
    training.train(
        folder / "output", folder / "work", settings=training.smoke_settings(), device="cpu"
    )
    return folder / "output", folder / "work"


def looks_like_adire(image: np.ndarray) -> bool:
    """Much dark blue together with some off-white."""
    red, green, blue = np.moveaxis(image.astype(float) / 255, 2, 0)
    bluish = (blue > red + 0.08) & (blue > green + 0.1) & (green > red - 0.03)
    indigo = bluish & (red + green + blue < 1.4)
    off_white = np.minimum(np.minimum(red, green), blue) > 0.62
    return bool(indigo.mean() > 0.25 and off_white.mean() > 0.02)


def test_the_corpus_follows_from_its_seed() -> None:
    first, again, other = (draw_generic(20, seed, 64) for seed in (3, 3, 4))
    assert np.array_equal(first.images, again.images) and first.captions == again.captions
    assert not np.array_equal(first.images, other.images)


def test_captions_name_motif_and_colours() -> None:
    corpus = draw_generic(300, 0, 64)
    for caption, (motif, foreground, background) in zip(
        corpus.captions, corpus.labels, strict=True
    ):
        motif = LABELS[0][motif]
        stem = {"leaves": "lea", "crosses": "cross", "fish": "fish"}.get(motif, motif.rstrip("s"))
        assert stem in caption
        if caption != LABELS[0][LABELS[0].index(motif)]:
            assert LABELS[1][foreground] in caption and LABELS[2][background] in caption


@pytest.mark.parametrize("name", sorted(COLOURS))
def test_an_image_has_the_background_that_its_caption_names(name: str) -> None:
    foreground = "black" if name != "black" else "yellow"
    pattern = Pattern("stars", foreground, name, "large", 1)
    assert pattern.caption() == f"one large {foreground} star on {name}"
    image = draw_pattern(pattern, np.random.default_rng(0)) / 255
    corner = image[:6, :6].mean((0, 1))
    nearest = min(COLOURS, key=lambda colour: np.linalg.norm(corner - COLOURS[colour]))
    assert nearest == name


def drawn(pattern: Pattern) -> np.ndarray:
    """Where the foreground is, [H, W]; black on white."""
    return draw_pattern(pattern, np.random.default_rng(0)).mean(2) < 128


def test_every_motif_looks_different_from_every_other() -> None:
    masks = {}
    for motif in MOTIF_WORDS:
        if motif in CELL_MOTIFS:
            pattern = Pattern(motif, "black", "white", "many", 4)
        else:
            layout, count = DIRECTIONS.get(motif, ("",))[0], COUNTS.get(motif, (4, 8))[0]
            pattern = Pattern(motif, "black", "white", layout, count)
        masks[motif] = drawn(pattern)
    for first in MOTIF_WORDS:
        for second in MOTIF_WORDS:
            if first < second:
                assert (masks[first] != masks[second]).mean() > 0.02, (first, second)


def test_a_grid_shows_each_of_its_motifs_where_the_caption_lists_it() -> None:
    pattern = Pattern("stars", "black", "white", "grid", 2, ("moons", "combs", "fish"))
    assert pattern.caption() == (
        "grid of four squares with black stars, moons, combs and fish on white"
    )
    cells = {
        "stars": (slice(0, 64), slice(0, 64)),
        "moons": (slice(0, 64), slice(64, 128)),
        "combs": (slice(64, 128), slice(0, 64)),
        "fish": (slice(64, 128), slice(64, 128)),
    }
    mask = drawn(pattern)
    for motif, place in cells.items():
        alone = drawn(Pattern(motif, "black", "white", "grid", 2))
        others = [name for name in cells if name != motif]
        shares = [
            (mask[place] != drawn(Pattern(name, "black", "white", "grid", 2))[place]).mean()
            for name in others
        ]
        assert (mask[place] != alone[place]).mean() < 0.01 < min(shares), motif


@pytest.mark.parametrize("border", BORDERS)
def test_a_border_frames_the_image_and_is_named(border: str) -> None:
    bare = Pattern("stars", "black", "white", "large", 1)
    framed = Pattern("stars", "black", "white", "large", 1, border=border)
    assert f"with a {border} border" in framed.caption()
    rim = np.ones((128, 128), bool)
    rim[15:-15, 15:-15] = False
    assert drawn(bare)[rim].mean() < 0.05 < 0.15 < drawn(framed)[rim].mean()


@pytest.mark.parametrize("finish", [name for name in FINISHES if name])
def test_a_finish_changes_the_cloth_and_is_named(finish: str) -> None:
    plain = Pattern("stripes", "black", "white", "vertical", 4)
    finished = Pattern("stripes", "black", "white", "vertical", 4, finish=finish)
    assert finished.caption() == f"wide vertical black stripes on {finish} white cloth"
    first, second = (
        draw_pattern(pattern, np.random.default_rng(0)).astype(float)
        for pattern in (plain, finished)
    )
    assert np.abs(first - second).mean() > 3


def test_a_question_about_another_motif_is_a_caption_that_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        pattern = choose_pattern(rng)
        for motif in MOTIF_WORDS:
            other = pattern.with_motif(motif)
            assert other.motif == motif
            assert (other.foreground, other.background) == (pattern.foreground, pattern.background)
        assert pattern.with_motif(pattern.motif) == pattern
    draw_pattern(other, rng)


def test_the_unet_never_sees_what_looks_like_adire() -> None:
    adire = draw_style(60, 0, 64, recoloured=0.0)
    assert np.mean([looks_like_adire(image) for image in adire.images]) > 0.9
    corpus = draw_generic(1500, 0, 64)
    assert not any(looks_like_adire(image) for image in corpus.images)
    assert not any("indigo" in caption or "adire" in caption for caption in corpus.captions)


def test_the_tokenizer_knows_the_words_of_adire_and_every_byte(tmp_path: Path) -> None:
    captions = draw_generic(200, 0, 64).captions + draw_style(30, 0, 64, 0.0).captions
    tokenizer = build_tokenizer(captions)
    assert len(tokenizer) <= 1000
    for word in (STYLE_TOKEN, *WHOLE_WORDS):
        assert len(tokenizer(word).input_ids) == 3, word  # start, the word, end
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    for text in ("a photo in nigerian_adire_style, eleko", "Zebra, 17 éü 布 🙂"):
        ids = tokenizer(text).input_ids
        assert again(text).input_ids == ids
        assert ids.count(tokenizer.unk_token_id) == 1  # the end, which is also "unknown"


def test_normalised_latents_are_standard_and_reconstruct_the_same() -> None:
    torch.manual_seed(0)
    model = build_autoencoder(64).eval()
    images = draw_generic(24, 0, 64).images
    pixels = torch.from_numpy(images[:2].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        before = model(pixels, sample_posterior=False).sample
        deviation = model.encode(pixels).latent_dist.std
        normalise_latents(model, images)
        after = model(pixels, sample_posterior=False).sample
        ratio = deviation / model.encode(pixels).latent_dist.std
    latents = encode_images(model, images).float()
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(12), atol=0.02)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(12), atol=0.02)
    assert torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(ratio, ratio.mean((0, 2, 3), keepdim=True).expand_as(ratio), rtol=1e-2)


def test_the_stock_pipeline_loads_and_runs_the_export(trained: tuple[Path, Path]) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig

    output, _ = trained
    pipeline = StableDiffusionPipeline.from_pretrained(
        output / "pipeline", variant="fp16", safety_checker=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    images = pipeline(
        ["red stars on yellow", "a very long prompt " * 30],
        num_inference_steps=2,
        guidance_scale=4.0,
        num_images_per_prompt=2,
        generator=torch.Generator().manual_seed(0),
    ).images
    assert [image.size for image in images] == [(128, 128)] * 4


def test_the_text_encoder_is_the_judges_text_tower(trained: tuple[Path, Path]) -> None:
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

    output, _ = trained
    encoder = CLIPTextModel.from_pretrained(
        output / "pipeline" / "text_encoder", variant="fp16", dtype=torch.float32
    )
    judge = CLIPModel.from_pretrained(output / "judge", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(output / "judge")
    ids = tokenizer(["a photo in nigerian_adire_style"], return_tensors="pt").input_ids
    with torch.no_grad():
        states = encoder(ids).last_hidden_state
        expected = judge.text_model(ids)
    assert torch.allclose(states, expected.last_hidden_state, atol=1e-6)
    end = int((ids[0] == tokenizer.eos_token_id).nonzero()[0])
    assert torch.allclose(expected.pooler_output[0], states[0, end], atol=1e-6)


def test_the_export_is_small_and_free_of_pickle(trained: tuple[Path, Path]) -> None:
    output, _ = trained
    files = [path for path in output.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 25_000_000
    record = json.loads((output / "training.json").read_text(encoding="utf-8"))
    assert record["steps"] == dict.fromkeys(("judge", "autoencoder", "decoder", "unet"), 4)
    assert set(record["scores"]) >= {"accuracy_motif", "accuracy_motif_generated", "psnr_adire_db"}


def test_training_again_repeats_no_stage_and_exports_the_same_bytes(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, work = trained
    training.train(tmp_path, work, settings=training.smoke_settings(), device="cpu")
    printed = capsys.readouterr().out
    assert "steps/s" not in printed
    for path in output.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / path.relative_to(output)).read_bytes()


def stepped(layout: torch.memory_format) -> list[torch.Tensor]:
    """The weights of two convolutions and a norm before and after two steps on fixed gradients."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 32, 3), torch.nn.GroupNorm(4, 32)
    ).to(memory_format=layout)
    weights = [layer.weight.detach().clone() for layer in module]
    optimizer = SplitOptimizer(module, 0.01, 0.1, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for share in (1.0, 0.5):
        for parameter in module.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step(share)
    return [*weights, *(layer.weight.detach().clone() for layer in module)]


def test_an_optimizer_step_moves_every_weight_in_either_memory_format() -> None:
    lying, standing = stepped(torch.contiguous_format), stepped(torch.channels_last)
    for before, after in zip(lying[:3], lying[3:], strict=True):
        assert (before != after).float().mean() > 0.9
    # Only the matrix in the middle is orthogonalised: all its directions move alike.
    moved = torch.linalg.svdvals((lying[4] - lying[1]).flatten(1))
    assert moved.max() < 3 * moved.min()
    for first, second in zip(lying, standing, strict=True):
        assert torch.allclose(first, second, atol=1e-3)


def unet_weights(folder: Path, *steps: int) -> dict[str, torch.Tensor]:
    """The UNet after runs that each stop at the given step, as if killed there."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(12, 12, 16, 16, generator=generator).half()
    texts = torch.randn(5, 32, 128, generator=generator).half()
    settings = UnetSettings(steps=4, batch_size=4, warmup=2)
    for last in steps:
        torch.manual_seed(0)
        model = build_unet(128)
        loop = Loop("unet", folder, last, "same")
        train_unet(model, latents, texts, np.arange(12) % 4, settings, loop, 0, torch.device("cpu"))
    return model.state_dict()


def test_a_resumed_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    straight = unet_weights(tmp_path / "straight", 4)
    resumed = unet_weights(tmp_path / "resumed", 2, 4)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = torch.nn.Linear(1, 1)
    Loop("stage", tmp_path, 1, "same").run({"part": part}, lambda _: torch.zeros(()))

    def killed(*_: object) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(SystemError):
            Loop("stage", tmp_path, 2, "same").run({"part": part}, lambda _: torch.zeros(()))
    done, _ = Loop("stage", tmp_path, 2, "same").restore({"part": part})
    assert done == 1


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    part = torch.nn.Linear(1, 1)
    Loop("stage", tmp_path, 1, "one").run({"part": part}, lambda _: torch.zeros(()))
    with pytest.raises(UserError, match="other settings"):
        Loop("stage", tmp_path, 1, "two").run({"part": part}, lambda _: torch.zeros(()))


def test_an_export_of_checkpoints_of_another_seed_is_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    _, work = trained
    with pytest.raises(UserError, match="other settings"):
        training.export_checkpoints(tmp_path, work, seed=1, settings=training.smoke_settings())
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    part = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="loss became nan"):
        Loop("stage", tmp_path, 1, "one").run({"part": part}, lambda _: torch.tensor(float("nan")))
    assert not (tmp_path / "stage.pt").exists()
