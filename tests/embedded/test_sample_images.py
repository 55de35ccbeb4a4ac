"""The drawn sample data: reproducible, distinct, captioned truthfully, and looking like adire."""

import csv
import re
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from adire_assets.core.errors import UserError
from adire_assets.embedded.cloth import sample_images
from adire_assets.embedded.cloth.drawing import MOTIFS, box, coverage, unit_grid
from adire_assets.embedded.cloth.sample_images import (
    PLURALS,
    TECHNIQUES,
    draw_adire,
    draw_resist,
    draw_sample_data,
    dye_indigo,
)

RESOLUTION = 128
CELLS = {"four": 2, "nine": 3, "sixteen": 4}
DARKEST_GROUND = {"": 0.4, "folded": 0.4, "worn": 0.48, "pale": 0.52}  # mean RGB at most


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "indigo"
    draw_sample_data(path)
    return path


def captions(folder: Path) -> dict[str, str]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file_name"]: row["text"] for row in csv.DictReader(stream)}


def finish_of(caption: str) -> str:
    return caption.rsplit(", ", 1)[1].removesuffix("indigo cloth").strip()


def resists(technique: str, words: str, wanted: int) -> list[np.ndarray]:
    """The first `wanted` resist masks whose description matches `words` entirely."""
    found = []
    for seed in range(6000):
        # The same is drawn at any resolution: a small drawing tells it cheaply.
        _, description = draw_resist(technique, np.random.default_rng(seed), 16)
        if re.fullmatch(f"{technique} {words}", description):
            found.append(draw_resist(technique, np.random.default_rng(seed), RESOLUTION)[0])
        if len(found) == wanted:
            return found
    raise AssertionError(f"{technique} {words} is not drawn")


def likest_motif(square: np.ndarray) -> str:
    """The motif that a square of the grid [H, H] shows best, painted or left to the dye."""
    x, y = unit_grid(len(square))
    middle = box(x - 0.5, y - 0.5, 0.36, 0.36) < 0
    likeness: dict[str, float] = {}
    for name, draw in MOTIFS.items():
        for size in (0.65, 0.75, 0.85):
            drawn = coverage(draw((2 * x - 1) / size, (2 * y - 1) / size), 0.2)
            found = abs(np.corrcoef(drawn[middle], square[middle])[0, 1])
            likeness[name] = max(likeness.get(name, 0.0), found)
    return max(likeness, key=likeness.__getitem__)


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    draw_sample_data(tmp_path / "again")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_another_seed_draws_other_images(folder: Path, tmp_path: Path) -> None:
    draw_sample_data(tmp_path, count=3, seed=1)
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes() != (folder / path.name).read_bytes()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"precious")
    with pytest.raises(UserError, match="is not empty"):
        draw_sample_data(tmp_path, count=3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_more_images_than_can_differ_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_images, "MINIMUM_HASH_DISTANCE", 65)  # of 64 bits
    with pytest.raises(UserError, match="ask for fewer than 3"):
        draw_sample_data(tmp_path / "new", count=3, resolution=16)
    assert not (tmp_path / "new").exists()


def test_it_is_an_image_folder_with_one_caption_per_image(folder: Path) -> None:
    listed = captions(folder)
    assert set(listed) == {path.name for path in folder.glob("*.png")}
    assert len(listed) == 108
    header = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "file_name,text"
    for name in listed:
        assert Image.open(folder / name).size == (128, 128)


def test_captions_name_the_style_the_technique_and_the_cloth(folder: Path) -> None:
    listed = captions(folder)
    for technique in TECHNIQUES:
        own = [text for name, text in listed.items() if name.startswith(technique)]
        assert len(own) == 36
        for text in own:
            assert text.startswith(f"a photo in nigerian_adire_style, {technique} ")
            assert re.search(r", ((folded|worn|pale) )?indigo cloth$", text), text


def test_no_caption_dominates(folder: Path) -> None:
    counted = Counter(captions(folder).values())
    assert max(counted.values()) <= 108 // 24 + 1
    assert len(counted) >= 60


def test_captions_are_short_and_of_few_words() -> None:
    words: set[str] = set()
    for technique in TECHNIQUES:
        for seed in range(400):
            _, caption = draw_adire(technique, np.random.default_rng(seed), 16)
            assert len(caption.split()) < 24, caption
            words.update(caption.replace(",", "").split())
    assert len(words) <= 85


@pytest.mark.parametrize(
    ("technique", "words"),
    [
        ("oniko", "tied circles in rows"),
        ("oniko", "one large tied circle with rings"),
        ("alabere", "stitched dashed lines in waves"),
        ("eleko", "painted grid of nine squares with (stars and moons|moons and stars)"),
    ],
)
def test_the_captions_of_the_examples_are_still_drawn(technique: str, words: str) -> None:
    drawn = (draw_resist(technique, np.random.default_rng(seed), 16)[1] for seed in range(10000))
    assert any(re.fullmatch(f"{technique} {words}", description) for description in drawn)


def test_most_cloth_is_plain_and_every_finish_occurs(folder: Path) -> None:
    counted = Counter(finish_of(text) for text in captions(folder).values())
    assert set(counted) == {"", "folded", "worn", "pale"}
    assert 0.6 < counted[""] / 108 < 0.8


def test_a_finish_changes_the_cloth_as_it_says() -> None:
    blank = np.zeros((RESOLUTION, RESOLUTION), np.float32)
    stripes = (np.indices(blank.shape)[0] // 16 % 2).astype(np.float32)

    def light(resist: np.ndarray, finish: str, seed: int) -> np.ndarray:
        return dye_indigo(resist, np.random.default_rng(seed), finish).astype(float).mean(2)

    def lines(image: np.ndarray, axis: int) -> float:
        profile = image.mean(axis)
        smooth, smoother = (ndimage.gaussian_filter1d(profile, width) for width in (1.5, 10))
        return (smooth - smoother).std()

    def patches(image: np.ndarray) -> float:
        return (ndimage.gaussian_filter(image, 3) - ndimage.gaussian_filter(image, 15)).std()

    for seed in range(5):
        plain = light(blank, "", seed)
        assert light(blank, "pale", seed).mean() > plain.mean() + 30
        assert light(stripes, "pale", seed).std() < 0.8 * light(stripes, "", seed).std()
        # A fold is a light or dark line all across the cloth; a rubbed place is a patch.
        for axis in (0, 1):
            folded, flat = (light(blank, finish, seed) for finish in ("folded", ""))
            assert lines(folded, axis) > 2 * lines(flat, axis)
        assert patches(light(blank, "worn", seed)) > 2 * patches(plain)


def test_no_two_images_are_near_duplicates(folder: Path) -> None:
    hashes = [imagehash.phash(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    nearest = min(a - b for place, a in enumerate(hashes) for b in hashes[:place])
    assert nearest >= 8


def test_a_near_duplicate_and_a_used_up_caption_are_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_from_few(
        technique: str, rng: np.random.Generator, resolution: int
    ) -> tuple[np.ndarray, str]:
        seed, caption = int(rng.integers(6)), int(rng.integers(16))
        return draw_adire(technique, np.random.default_rng(seed), resolution)[0], f"cloth {caption}"

    monkeypatch.setattr(sample_images, "draw_adire", draw_from_few)
    draw_sample_data(tmp_path, count=12)
    hashes = [imagehash.phash(Image.open(path)) for path in tmp_path.glob("*.png")]
    assert min(a - b for place, a in enumerate(hashes) for b in hashes[:place]) >= 8
    assert len(set(captions(tmp_path).values())) == 12


def test_every_image_is_an_indigo_ground_with_off_white_marks(folder: Path) -> None:
    for name, text in captions(folder).items():
        pixels = np.asarray(Image.open(folder / name).convert("RGB"), float) / 255
        light = pixels.mean(2)
        ground = np.median(pixels[light <= np.median(light)], axis=0)
        assert ground[2] > ground[1] > 0.5 * ground[0], name
        assert ground.mean() < DARKEST_GROUND[finish_of(text)], name
        assert ground[2] > 1.3 * ground[0], name
        marks = pixels[light > np.quantile(light, 0.985)].mean(0)
        assert marks.min() > 0.5 and marks.max() - marks.min() < 0.25, name
        assert marks.mean() > ground.mean() + 0.2, name


@pytest.mark.parametrize("word", CELLS)
def test_an_eleko_caption_counts_the_squares_that_are_there(word: str) -> None:
    cells = CELLS[word]
    for resist in resists(
        "eleko", f"painted (dotted )?grid of {word} squares with (?!.*border).*", 6
    ):
        borders = [round(RESOLUTION * k / cells) for k in range(1, cells)]
        # A painted border is bright all along, so its darkest fifth tells it from a motif.
        for across in (resist, resist.T):
            level = [np.quantile(across[b - 5 : b + 5].max(0), 0.2) for b in borders]
            assert min(level) > 0.35


@pytest.mark.parametrize("motif", ["star", "moon", "comb", "fish", "wheel", "spiral", "cross"])
def test_an_eleko_caption_names_the_motif_that_is_there(motif: str) -> None:
    side, seen = RESOLUTION // 2, Counter[str]()
    for resist in resists("eleko", f"painted grid of four squares with {PLURALS[motif]}", 3):
        squares = resist.reshape(2, side, 2, side).swapaxes(1, 2).reshape(4, side, side)
        seen.update(likest_motif(square) for square in squares)
    assert seen[motif] >= 9, seen


@pytest.mark.parametrize(
    ("technique", "words", "count", "blur"),
    [
        ("oniko", "two large tied circles and two small circles", 4, 4),
        ("oniko", "one large tied circle and four small circles", 5, 4),
        ("oniko", "large tied circles in rows", 4, 4),
        ("alabere", "four leaves of stitched lines", 4, 3),
        ("alabere", "nine small leaves of stitched lines", 9, 2.5),
    ],
)
def test_a_caption_counts_what_is_tied_or_stitched(
    technique: str, words: str, count: int, blur: float
) -> None:
    for resist in resists(technique, words, 3):
        blurred = ndimage.gaussian_filter(resist, blur)
        brightest = np.quantile(blurred, 0.95)
        blobs = [ndimage.label(blurred > part * brightest)[1] for part in (0.4, 0.5, 0.6, 0.7)]
        assert count in blobs


def test_stitched_stripes_run_the_way_that_the_caption_says() -> None:
    for word, axis in (("horizontal", 1), ("vertical", 0)):
        for resist in resists("alabere", f"stitched {word} dashed lines in stripes", 4):
            assert resist.mean(axis).std() > 2 * resist.mean(1 - axis).std()


def test_a_stitched_seam_is_dashed() -> None:
    for resist in resists("alabere", "stitched horizontal dashed lines in stripes", 4):
        seam = resist[int(resist.mean(1).argmax())]
        crossings = np.count_nonzero(np.diff(seam > seam.mean()))
        assert crossings >= 16


def test_a_tied_circle_has_rings_that_pleats_break_up() -> None:
    x, y = unit_grid(RESOLUTION)
    radius, angle = np.hypot(x - 0.5, y - 0.5), np.arctan2(y - 0.5, x - 0.5)
    for resist in resists("oniko", "one large tied circle with rays", 3):
        body = (radius > 0.12) & (radius < 0.33)
        rays = [resist[body & (np.abs(angle - a) < 0.03)].mean() for a in np.linspace(-3, 3, 90)]
        assert np.std(rays) > 0.08
    for resist in resists("oniko", "one large tied circle with rings", 3):
        assert resist[radius < 0.35].mean() > 2 * resist[radius > 0.6].mean()


@pytest.mark.parametrize("resolution", [64, 96])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_any_resolution_shows_the_same_cloth(technique: str, resolution: int) -> None:
    for seed in range(5):
        pixels, caption = draw_adire(technique, np.random.default_rng(seed), resolution)
        large, same = draw_adire(technique, np.random.default_rng(seed))
        assert caption == same
        shrunk = np.asarray(Image.fromarray(large).convert("L").resize((resolution, resolution)))
        assert np.corrcoef(shrunk.ravel(), pixels.mean(2).ravel())[0, 1] > 0.9
        assert pixels.shape == (resolution, resolution, 3) and pixels.dtype == np.uint8
