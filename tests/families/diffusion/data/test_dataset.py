"""Images become a dataset: what is written, and when there are too few of them."""

import json
import random

import imagehash
import pytest
from PIL import Image

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.data.dataset import build_dataset
from tests.support.picture_folders import (
    SIZE,
    SPLITS,
    config,
    fill,
    picture,
    refused,
    rows,
    save,
    texts,
    tree,
)

# --- output ---


def test_output_is_the_layout_that_training_and_evaluation_read(tmp_path):
    source = fill(tmp_path / "in", 20)
    save(source, "deep/wide.jpg", picture(500, (100, 50)))
    summary = build_dataset(source, tmp_path / "out", config())
    found = {name: rows(tmp_path / "out", name) for name in SPLITS}
    counts = {name: len(split) for name, split in found.items()}
    assert all(counts.values())
    assert counts == {name: getattr(summary, name) for name in SPLITS}
    assert summary.images == 21
    assert summary.rejected == []
    for row in (row for split in found.values() for row in split):
        with Image.open(tmp_path / "out" / row["file_name"]) as image:
            assert image.format == "PNG"
            assert image.mode == "RGB"
            assert min(image.size) == SIZE
            assert str(imagehash.phash(image)) == row["phash"]
        assert row["text"] == "a photo"
        assert set(row) == {"file_name", "text", "sha256", "phash"}
    with Image.open(tmp_path / "out" / "images" / "deep" / "wide.png") as image:
        assert image.size == (64, 32)
    with Image.open(tmp_path / "out" / "dataset_sheet.png") as sheet:
        assert sheet.width > 300
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {name: written[name] for name in ("images", *SPLITS)} == {"images": 21, **counts}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset_sheet.png", "held_out.jsonl", "images", "summary.json", "train.jsonl",
        "validation.jsonl",
    ]  # fmt: skip


def test_bytes_do_not_depend_on_file_order_or_on_the_kind_of_caption_file(tmp_path):
    captions = {f"p{number:03d}.png": f'cloth "{number}", blue' for number in range(24)}
    built = []
    for kind in ("csv", "jsonl", "txt"):
        source = fill(tmp_path / kind)
        items = list(captions.items())
        if kind == "csv":
            quoted = [f'{name},"{text.replace(chr(34), chr(34) * 2)}"' for name, text in items]
            (source / "metadata.csv").write_bytes(
                b"\xef\xbb\xbf" + "\r\n".join(["file_name,text", *quoted]).encode()
            )
        elif kind == "jsonl":
            lines = [json.dumps({"text": text, "file_name": f"./{name}"}) for name, text in items]
            (source / "metadata.jsonl").write_text("\n\n".join(reversed(lines)))
        else:
            for name, text in items:
                (source / name).with_suffix(".txt").write_text(f"  {text} \n")
        names = sorted(path.name for path in source.iterdir())
        random.Random(kind).shuffle(names)
        build_dataset(source, tmp_path / f"out-{kind}", config(), names)
        built.append(tree(tmp_path / f"out-{kind}"))
    assert built[0] == built[1] == built[2]
    assert texts(tmp_path / "out-csv")["images/p003.png"] == 'cloth "3", blue'


def test_only_the_files_named_are_taken(tmp_path):
    source = fill(tmp_path / "in", 20)
    names = [f"p{number:03d}.png" for number in range(15)]
    assert build_dataset(source, tmp_path / "out", config(), names).images == 15


# --- too few ---


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    assert "has no images" in refused(tmp_path / "in", tmp_path / "out")
    assert "has no images" in refused(tmp_path / "absent", tmp_path / "out")


def test_too_few_images_says_how_many_are_needed_and_why_others_are_out(tmp_path):
    source = fill(tmp_path / "in", 12)
    for number in range(9):
        (source / f"p{number:03d}.png").write_text("broken")
    message = refused(source, tmp_path / "out")
    assert "8 images are needed (data.minimum_images), 3 are usable" in message
    assert "rejected: p000.png: not an image" in message
    assert "9 rejected in all" in message


def test_an_output_that_is_in_use_is_left_alone(tmp_path):
    source = fill(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        build_dataset(source, tmp_path / "out", config())
    assert tree(tmp_path / "out") == {"mine": b"x"}
