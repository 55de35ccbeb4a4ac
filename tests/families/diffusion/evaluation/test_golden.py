"""Golden images of the embedded base, drawn again: exact by the same software, measured else."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.store import read_json, write_json
from adire_assets.embedded.base import golden as embedded
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.evaluation import golden

ROOT = Path(__file__).parents[4]
COMMITTED = ROOT / "base_models" / "tiny" / "golden"
RNG = np.random.default_rng(3)
PICTURE = RNG.integers(20, 230, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- the embedded base -------------------------------------------------------------------------


def here(**changes: str) -> dict[str, str | None]:
    """The conditions of this process for the committed set, with other versions where given."""
    environment = lineage.environment(*FAMILY.packages, device="cpu") | changes
    return golden.conditions(environment, lineage.hardware(), embedded.THREADS)


def drawn(base: Path, threads: int = embedded.THREADS) -> list[np.ndarray]:
    requests = read_json(COMMITTED / "golden.json")["requests"]
    variant, sampling = embedded.VARIANT, golden.SAMPLING
    return golden.draw(requests, sampling, base, variant, None, "cpu", threads)


def with_scheduler(base: Path, folder: Path, name: str) -> Path:
    """The base as if a library had another scheduler behind the same name."""
    shutil.copytree(base, folder, copy_function=shutil.copyfile)
    for file, key, value in (
        ("model_index.json", "scheduler", ["diffusers", name]),
        ("scheduler/scheduler_config.json", "_class_name", name),
    ):
        write_json(folder / file, {**read_json(folder / file), key: value})
    return folder


def test_the_embedded_base_draws_its_golden_images(embedded_base: Path) -> None:
    """Bits differ between kinds of CPU: equality is asked for where the CPU is the recorded one,
    and of two drawings here; anywhere the change must be invisible."""
    first = drawn(embedded_base)
    torch.set_num_threads(1)  # what counts is what was recorded
    second = drawn(embedded_base)
    assert [golden.pixel_hash(i) for i in first] == [golden.pixel_hash(i) for i in second]
    comparison = golden.compare(COMMITTED, first, here())
    assert comparison.must_be_equal is (
        here() == read_json(COMMITTED / "golden.json")["conditions"]
    )
    assert comparison.verdict != golden.CHANGED, (
        f"{comparison.sentence()}; if that is meant, `adire base-model golden` writes them anew"
    )


def test_the_committed_images_are_those_of_the_committed_hashes() -> None:
    settings = read_json(COMMITTED / "golden.json")
    images = [np.asarray(Image.open(COMMITTED / entry["file"])) for entry in settings["images"]]
    comparison = golden.compare(COMMITTED, images, settings["conditions"])
    assert comparison.verdict == golden.EXACT
    assert len({golden.pixel_hash(image) for image in images}) == 4
    assert all(image.std() > 20 for image in images)


@pytest.mark.full
def test_an_upgrade_that_draws_otherwise_is_told_with_its_measure(
    embedded_base: Path, tmp_path: Path
) -> None:
    other = drawn(with_scheduler(embedded_base, tmp_path / "base", "PNDMScheduler"))
    comparison = golden.compare(COMMITTED, other, here(diffusers="0.43.0"))
    assert comparison.verdict == golden.CHANGED
    worst = comparison.images[0]
    assert 25 < worst.psnr_decibels < 33
    assert [i.psnr_decibels for i in comparison.images] == sorted(
        i.psnr_decibels for i in comparison.images
    )
    sentence = comparison.sentence()
    assert sentence.startswith("changed: 4 of 4 images differ, worst 'grid of nine squares")
    assert "-> 0.43.0" in sentence and "invisible is at least 40 dB" in sentence


def test_another_thread_count_moves_bits_that_nobody_sees(embedded_base: Path) -> None:
    one = drawn(embedded_base, threads=1)
    comparison = golden.compare(COMMITTED, one, {**here(), "threads": "1"})
    assert comparison.verdict in (golden.EXACT, golden.WITHIN)
    assert comparison.conditions["threads"] == ["2", "1"]
    changed = [image for image in comparison.images if not image.exact]
    assert all(image.psnr_decibels > 60 for image in changed)


@pytest.mark.full
def test_the_set_of_the_base_can_be_written_anew(embedded_base: Path, tmp_path: Path) -> None:
    embedded.write_golden(embedded_base, tmp_path / "golden")
    wanted = read_json(COMMITTED / "golden.json")
    written = read_json(tmp_path / "golden" / "golden.json")
    assert written["requests"] == wanted["requests"]
    assert written["conditions"] == here()


# --- measures ----------------------------------------------------------------------------------


def compared(tmp_path: Path, image: np.ndarray, **now: str) -> golden.Comparison:
    """`image` drawn where PICTURE was, on the CPU."""
    then = {"device": "cpu", "threads": "1", "torch": "2"}
    request = {"prompt": "circles", "seed": 7}
    if not (tmp_path / "golden.json").exists():
        golden.write(tmp_path, [request], [PICTURE], then)
    return golden.compare(tmp_path, [image], {**then, **now})


def test_measures_are_those_of_their_formulas(tmp_path: Path) -> None:
    image = PICTURE + np.uint8(2)
    [found] = compared(tmp_path, image, torch="3").images
    assert found.psnr_decibels == pytest.approx(10 * np.log10(255**2 / 4), abs=1e-3)
    # A shift changes the mean alone: SSIM is its luminance term, nearly 1 here.
    assert 0.999 < found.ssim < 1
    assert found.hash_distance <= 2
    negative = 255 - PICTURE
    [found] = compared(tmp_path, negative, torch="3").images
    error = (PICTURE.astype(float) - negative) ** 2
    assert found.psnr_decibels == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-3)
    assert found.ssim < 0
    assert found.hash_distance > 50  # all frequencies but the mean change their sign


@pytest.mark.parametrize(
    ("levels", "now", "verdict"),
    [
        (0, {}, golden.EXACT),
        (0, {"torch": "3"}, golden.EXACT),
        (2, {"torch": "3"}, golden.WITHIN),
        (3, {"torch": "3"}, golden.CHANGED),  # 38.6 dB
        (1, {}, golden.CHANGED),  # the same software on the same machine gives the same bits
        (1, {"cpu": "another"}, golden.WITHIN),
        (1, {"threads": "2"}, golden.WITHIN),
    ],
)
def test_equality_is_asked_for_where_it_can_be_expected(
    tmp_path: Path, levels: int, now: dict[str, str], verdict: str
) -> None:
    comparison = compared(tmp_path, PICTURE + np.uint8(levels), **now)
    assert comparison.verdict == verdict
    assert comparison.sentence().startswith(verdict)
    assert golden.Comparison.from_dict(comparison.as_dict()) == comparison


def test_structure_and_hash_count_beside_the_error(tmp_path: Path) -> None:
    def judged(**measures: Any) -> bool:
        known = {"psnr_decibels": 50.0, "ssim": 0.999, "hash_distance": 0}
        return golden.Difference("p", 0, False, **{**known, **measures}).visible

    assert not judged()
    assert judged(psnr_decibels=39.9) and judged(ssim=0.979) and judged(hash_distance=5)
    assert not judged(psnr_decibels=40.0, ssim=0.98, hash_distance=4)
    with pytest.raises(UserError, match="64x64 pixels and is now drawn with 32x64"):
        compared(tmp_path, PICTURE[:, :32])
