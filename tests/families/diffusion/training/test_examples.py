"""What a step sees: views, captions, class images, and what is kept of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.engine.architecture import Latents, Noise
from adire_assets.families.diffusion.training.cache import Facts, TensorCache
from adire_assets.families.diffusion.training.examples import Batch, Examples
from adire_assets.families.diffusion.training.settings import TrainingConfig
from adire_assets.families.diffusion.training.views import pixels
from tests.support import tiny

GEOMETRY = Latents(channels=3, scale=8, multiple=8, scaling_factor=2.0)


class Encoder:
    """Stands for the autoencoder: a latent is the mean colour of each 8 x 8 pixels."""

    def __init__(self) -> None:
        self.images = 0
        self.captions: list[str] = []

    def latents(self, *view: Any) -> dict[str, torch.Tensor]:
        self.images += 1
        mean = torch.nn.functional.avg_pool2d(pixels(*view), 8)[0]
        return {"mean": mean, "deviation": torch.zeros_like(mean)}

    def text(self, caption: str) -> dict[str, torch.Tensor]:
        self.captions.append(caption)
        return {"encoder_hidden_states": torch.full((2, 4), float(len(caption)))}


def make(
    folder: Path, cache: Path, encoder: Encoder, rank: int = 0, processes: int = 1, **more: Any
) -> Examples:
    classes = more.pop("class_images", ())
    given = {"train_batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": 12}
    examples = Examples(
        folder,
        TrainingConfig.model_validate(given | more),
        resolution=64,
        geometry=GEOMETRY,
        noise=Noise(DDPMScheduler().config),
        latents=TensorCache(cache / "latents", encoder.latents, Facts()),
        texts=TensorCache(cache / "texts", encoder.text, Facts()),
        device=torch.device("cpu"),
        class_images=classes,
        rank=rank,
        processes=processes,
    )
    examples.prepare(0)
    return examples


def all_of(examples: Examples, steps: int = 12) -> list[Batch]:
    return [batch for step in range(steps) for batch in examples.batches(step)]


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Images of three shapes with a gradient from left to right, in two folders. Their captions
    have a line separator in them, which ends no row."""
    folder = tmp_path / "dataset"
    rows = []
    for number, size in enumerate([(64, 64), (128, 64), (64, 128), (130, 64), (64, 64)]):
        name = f"images/{'oniko' if number % 2 else 'eleko'}/{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ramp = Image.linear_gradient("L").rotate(90).resize(size)
        Image.merge("RGB", [ramp] * 3).save(folder / name)
        rows.append({"file_name": name, "text": f"cloth\u2028{number}"})
    tiny.write_rows(folder / "train.jsonl", rows[:4])
    tiny.write_rows(folder / "validation.jsonl", rows[4:])
    return folder


def test_a_step_is_a_function_of_seed_and_number(dataset: Path, tmp_path: Path) -> None:
    one, two = (make(dataset, tmp_path, Encoder()) for _ in range(2))
    [first], [again] = list(one.batches(7)), list(two.batches(7))
    assert torch.equal(first.noise, again.noise) and torch.equal(first.clean, again.clean)
    [other] = make(dataset, tmp_path, Encoder(), seed=1).batches(7)
    assert not torch.equal(first.noise, other.noise)


def test_accumulated_batches_are_one_pass_with_weights_that_make_the_mean(
    dataset: Path, tmp_path: Path
) -> None:
    [batch] = make(dataset, tmp_path, Encoder()).batches(0)
    assert batch.clean.shape == (4, 3, 8, 8)
    assert batch.weights.tolist() == [0.25] * 4


def test_what_was_encoded_is_not_encoded_again(dataset: Path, tmp_path: Path) -> None:
    first = Encoder()
    make(dataset, tmp_path, first)
    assert first.images > 6 and len(set(first.captions)) == len(first.captions) == 9
    second = Encoder()
    make(dataset, tmp_path, second)
    assert (second.images, second.captions) == (0, [])
    file = next((tmp_path / "latents").rglob("*.safetensors"))
    file.write_bytes(b"")  # what a machine that lost power leaves
    make(dataset, tmp_path, third := Encoder())
    assert third.images == 1


def test_a_cache_holds_no_more_in_memory_than_it_may(tmp_path: Path) -> None:
    def made(n: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((50,), float(n))}

    cache = TensorCache(tmp_path, made, Facts(), memory_bytes=1000)
    cache.fill((n, (n,)) for n in range(20))
    for n in (3, 19, 3, 0):
        assert cache.get(n, torch.device("cpu"))["x"].tolist() == [float(n)] * 50
    assert cache.kept_bytes <= 1000


def test_flips_are_views_of_their_own(wide: Path, tmp_path: Path) -> None:
    examples = make(wide, tmp_path, Encoder(), random_flip=True)
    slopes = Counter()
    for batch in all_of(examples):
        for latent in batch.clean:
            slopes[bool(latent[0, 0, 0] < latent[0, 0, -1])] += 1
    assert slopes.keys() == {True, False} and min(slopes.values()) > 10


def test_random_crops_come_from_a_few_places_all_over_the_image(wide: Path, tmp_path: Path) -> None:
    encoder = Encoder()
    examples = make(wide, tmp_path, encoder, center_crop=False, max_train_steps=40)
    means = {
        round(float(latent.mean()), 3)
        for batch in all_of(examples, 40)
        for latent, view in zip(batch.clean, batch.views, strict=True)
        if view.row == 1
    }
    assert len(means) == 5
    assert encoder.images <= 4 * 25 + 1


def test_buckets_keep_an_images_shape(wide: Path, tmp_path: Path) -> None:
    examples = make(wide, tmp_path, Encoder(), aspect_ratio_buckets=True)
    seen = {(view.row, batch.clean.shape[2:]) for batch in all_of(examples) for view in batch.views}
    shapes = {row: tuple(shape) for row, shape in seen}
    assert len(seen) == 4
    assert shapes[0] == (8, 8)
    assert shapes[1][1] > shapes[1][0] and shapes[2][1] < shapes[2][0]
    # The whole width is there: the gradient runs from dark to light.
    wide_one = next(b.clean[0] for b in all_of(examples) if b.views[0].row == 1)
    assert wide_one[0, 0, 0] < -1.7 and wide_one[0, 0, -1] > 1.7


def test_folders_are_repeated_as_asked_and_unknown_ones_refused(wide: Path, tmp_path: Path) -> None:
    examples = make(wide, tmp_path, Encoder(), repeats={"oniko": 3})
    counts = Counter(view.row for batch in all_of(examples, 2) for view in batch.views)
    assert counts == {0: 1, 1: 3, 2: 1, 3: 3}
    with pytest.raises(UserError, match=r"no image is in the folder onikko; folders: eleko, oniko"):
        make(wide, tmp_path, Encoder(), repeats={"onikko": 2})


def test_some_prompts_are_empty(dataset: Path, tmp_path: Path) -> None:
    examples = make(
        dataset, tmp_path, Encoder(), proportion_empty_prompts=0.25, max_train_steps=100
    )
    texts = [text for batch in all_of(examples, 100) for text in batch.captions]
    assert 0.18 < texts.count("") / len(texts) < 0.32


def test_noise_offset_moves_each_channel_as_a_whole(dataset: Path, tmp_path: Path) -> None:
    [plain] = make(dataset, tmp_path, Encoder()).batches(3)
    [moved] = make(dataset, tmp_path, Encoder(), noise_offset=0.5).batches(3)
    difference = moved.noise - plain.noise
    assert difference.std(dim=(2, 3)).max() < 1e-6
    assert difference[:, :, 0, 0].std() > 0.2
    assert torch.equal(plain.timesteps, moved.timesteps)


def test_class_images_come_beside_with_their_own_weight(dataset: Path, tmp_path: Path) -> None:
    classes = []
    for number in range(3):
        classes.append(tmp_path / f"class-{number}.png")
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(classes[-1])
    examples = make(
        dataset,
        tmp_path,
        Encoder(),
        class_images=classes,
        with_prior_preservation=True,
        class_prompt="a photo",
        prior_loss_weight=0.5,
    )
    [batch] = examples.batches(0)
    assert len(batch.captions) == 8 and batch.captions.count("a photo") == 4
    for text, weight in zip(batch.captions, batch.weights.tolist(), strict=True):
        assert weight == (0.125 if text == "a photo" else 0.25)
    counts = Counter(v.row for b in all_of(examples, 3) for v in b.views if v.row >= 6)
    assert counts == {6: 4, 7: 4, 8: 4}


@pytest.mark.parametrize("side", [64, 48])  # of the base's own images; the resolution is 64
def test_class_images_keep_their_square_beside_any_bucket(
    wide: Path, tmp_path: Path, side: int
) -> None:
    classes = [tmp_path / f"class-{number}.png" for number in range(2)]
    for path in classes:
        Image.new("RGB", (side, side), (0, 80, 0)).save(path)
    examples = make(
        wide,
        tmp_path,
        Encoder(),
        class_images=classes,
        aspect_ratio_buckets=True,
        with_prior_preservation=True,
        class_prompt="a photo",
        prior_loss_weight=0.5,
    )
    shapes: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
    for step in range(12):
        batches = list(examples.batches(step))
        assert float(sum(batch.weights.sum() for batch in batches)) == pytest.approx(1.5)
        assert sum(len(batch.captions) for batch in batches) == 8
        for batch in batches:
            for view, text in zip(batch.views, batch.captions, strict=True):
                shapes[text == "a photo"].add(view.shape)
    assert shapes[True] == {(side, side)}
    assert len(shapes[False]) == 3


def test_processes_share_what_one_would_see(dataset: Path, tmp_path: Path) -> None:
    whole = make(dataset, tmp_path, Encoder(), train_batch_size=2, gradient_accumulation_steps=4)
    [batch] = whole.batches(5)
    halves = [
        next(iter(make(dataset, tmp_path, Encoder(), rank, 2, num_processes=2).batches(5)))
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([half.noise for half in halves]), batch.noise)
    assert torch.equal(torch.cat([half.timesteps for half in halves]), batch.timesteps)
    assert [text for half in halves for text in half.captions] == batch.captions


def test_validation_is_the_same_for_every_run(dataset: Path, tmp_path: Path) -> None:
    runs = [make(dataset, tmp_path, Encoder(), seed=seed, random_flip=True) for seed in (0, 9)]
    [one], [two] = (list(examples.validation()) for examples in runs)
    assert torch.equal(one.noise, two.noise) and torch.equal(one.clean, two.clean)
    assert one.timesteps.tolist() == [125, 375, 625, 875] * 3
    assert float(one.weights.sum()) == pytest.approx(1.0)
    texts = [json.loads(line)["text"] for line in (dataset / "validation.jsonl").open()]
    assert set(one.captions) == set(texts)


def test_an_image_smaller_than_the_resolution_is_named(wide: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 64)).save(wide / "images" / "eleko" / "0.png")
    with pytest.raises(UserError, match=r"0\.png is smaller than 64x64 pixels"):
        make(wide, tmp_path, Encoder())


def test_the_best_checkpoint_needs_images_to_choose_it_by(wide: Path, tmp_path: Path) -> None:
    tiny.write_rows(wide / "validation.jsonl", [])
    assert list(make(wide, tmp_path, Encoder()).validation()) == []
    with pytest.raises(UserError, match=r"keep_checkpoint: best needs validation images.*raise"):
        make(wide, tmp_path, Encoder(), keep_checkpoint="best", validation_steps=2)
