"""A folder of images becomes a dataset: validated, captioned, without duplicates, split in three.

`build_dataset` writes

    images/<path>.png    sRGB, upright, the shorter side resized (Lanczos) to the resolution
    train.jsonl          a line per image: file_name, text, sha256 (of the source file), phash
    validation.jsonl     the same for the images that checkpoints and settings are chosen by
    held_out.jsonl       the same for the images that gates judge by, which nothing else looks at
    summary.json         counts, rejected and unused files with reasons, near duplicates
    dataset_sheet.png    a look at each split

and gives the `Summary` of summary.json. Bytes depend on the images, their names, captions and the
config alone, not on the order of files or the kind of caption file.

The split is a function of each image's own pixels: adding an image moves no other. An image too
close to one of a split that counts more (held-out before validation before train) is rejected, so
no near duplicates are in two splits; those in one stay and are listed. A `UserError` leaves nothing
behind.
"""

import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from adire_assets.core.data_files import TAKEN_DOWN, content_files, new_folder
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.core.lineage import file_digest
from adire_assets.core.store import write_json
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.config import DataConfig
from adire_assets.families.diffusion.data.captions import Captions, read_captions
from adire_assets.families.diffusion.data.contact_sheet import contact_sheet
from adire_assets.families.diffusion.data.dataset_summary import SAME_IMAGE
from adire_assets.families.diffusion.data.images import (
    ENDINGS,
    NO_IMAGE,
    OTHER_PICTURES,
    Rejected,
    load,
    own_pixel_limit,
)
from adire_assets.families.diffusion.data.same_image import fit, perceptual_hash
from adire_assets.families.diffusion.data.splits import (
    Accepted,
    NearDuplicate,
    Rejection,
    near_duplicates,
    refuse_too_few,
    split_images,
)

PNG_COMPRESSION = 4  # zlib's 6 makes photographs no smaller and takes longer
PROGRESS_SECONDS = 5.0
STAGING = ".unfinished"


@dataclass(frozen=True)
class Summary:
    """The content of summary.json. Files are named as in the source folder."""

    files: int  # files that count (`file_names.is_content`) and gave no captions
    train: int
    validation: int
    held_out: int
    own_captions: int  # images whose caption is not the instance prompt's stand-in
    resolution: int
    rejected: list[Rejection] = field(default_factory=list)
    near_duplicates: list[NearDuplicate] = field(default_factory=list)
    unused: list[Rejection] = field(default_factory=list)  # files beside the images
    uncalibrated: list[str] = field(default_factory=list)  # without a profile, though not sRGB

    @property
    def images(self) -> int:
        return self.train + self.validation + self.held_out


def build_dataset(
    source: Path,
    output: Path,
    config: DataConfig,
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
    taken_down: Collection[str] = (),
) -> Summary:
    """Build the dataset of `source` in the empty or absent folder `output`.

    `files` are the relative paths to take (default: all below `source`); what is not content
    (`file_names.is_content`) is left out. So are images with the pixels of a file whose SHA-256 is
    in `taken_down`; what is a near duplicate of one stays rejected for it. UserError: no files,
    wrong caption files, two images of one name, too few images in all (`config.minimum_images`),
    held out or to train on.
    """
    found = content_files(source, files)
    if not found:
        raise UserError(
            f"{source} has no images: put them there (and a metadata.csv with file_name,text), "
            "then run `dvc add` on the folder that is tracked"
        )
    captions = read_captions(source, found)
    for name in captions.used:
        found.pop(name)
    with new_folder(output):
        (output / STAGING).mkdir()
        with own_pixel_limit():
            summary = _build(source, output, config, found, captions, progress, taken_down)
        shutil.rmtree(output / STAGING)
    return summary


def build(
    *,
    source: str | Path,
    output: str | Path,
    config: Mapping[str, Any],
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
    taken_down: Collection[str] = (),
) -> dict[str, Any]:
    """`build_dataset` with plain values, as the line and a worker call it."""
    settings = DataConfig.model_validate(config)
    found = build_dataset(Path(source), Path(output), settings, files, progress, taken_down)
    return asdict(found)


def _build(
    source: Path,
    output: Path,
    config: DataConfig,
    files: Mapping[str, Path],
    captions: Captions,
    progress: Progress | None,
    taken_down: Collection[str],
) -> Summary:
    rejected: list[Rejection] = []
    gone: set[str] = set()  # pixels of what was taken down
    unused: list[Rejection] = []
    images: list[Accepted] = []
    first: dict[str, str] = {}
    for found in _normalised(source, output / STAGING, config, files, progress):
        if isinstance(found, Accepted) and found.sha256 in taken_down:
            gone.add(found.pixels)
        if isinstance(found, Rejection):
            name = found.file
            if found.reason == NO_IMAGE and suffix_of(name) not in (*ENDINGS, *OTHER_PICTURES):
                unused.append(Rejection(name, captions.unused.get(name, NO_IMAGE)))
            else:
                rejected.append(found)
        elif found.pixels in first:
            rejected.append(Rejection(found.source, f"{SAME_IMAGE}{first[found.pixels]}"))
            found.staged.unlink()
        else:
            first[found.pixels] = found.source
            images.append(found)
    # Excluded only after the split: what was rejected for their sake would be trained on instead.
    splits, straddling = split_images(images, config)
    excluded = {image.source for image in images if image.pixels in gone}
    images = [image for image in images if image.source not in excluded]
    splits = {
        name: [image for image in split if image.source not in excluded]
        for name, split in splits.items()
    }
    straddling = [item for item in straddling if item.file not in excluded]
    rejected += [*straddling, *(Rejection(name, TAKEN_DOWN) for name in excluded)]
    rejected.sort(key=lambda item: item.file)
    _refuse_equal_names(source, images)
    refuse_too_few(source, config, images, splits, rejected)
    for name, split in splits.items():
        _write_split(output, name, split, captions.texts, config.instance_prompt)
    accepted = [image for split in splits.values() for image in split]
    summary = Summary(
        files=len(files),
        train=len(splits["train"]),
        validation=len(splits["validation"]),
        held_out=len(splits["held_out"]),
        own_captions=sum(image.source in captions.texts for image in accepted),
        resolution=config.resolution,
        rejected=rejected,
        near_duplicates=[
            one for split in splits.values() for one in near_duplicates(split, config)
        ],
        unused=unused,
        uncalibrated=sorted(image.source for image in accepted if image.uncalibrated),
    )
    write_json(output / "summary.json", {**asdict(summary), "images": summary.images})
    contact_sheet(
        {
            name.replace("_", " "): [output / image.name for image in split]
            for name, split in splits.items()
        },
        output / "dataset_sheet.png",
    )
    return summary


def _normalised(
    source: Path,
    staging: Path,
    config: DataConfig,
    files: Mapping[str, Path],
    progress: Progress | None,
) -> Iterator[Accepted | Rejection]:
    """Every file of `files`, in order, decoded once; at most one image per thread is in memory."""

    def work(job: tuple[int, tuple[str, Path]]) -> Accepted | Rejection:
        number, (name, path) = job
        try:
            return normalise(source, name, path, staging / f"{number}.png", config)
        except Rejected as reason:
            return Rejection(name, str(reason))

    said = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            for number, found in enumerate(pool.map(work, enumerate(files.items()))):
                yield found
                if progress and time.monotonic() - said > PROGRESS_SECONDS:
                    said = time.monotonic()
                    progress(f"{number + 1} of {len(files)} files read")
        finally:
            pool.shutdown(cancel_futures=True)


def normalise(source: Path, name: str, path: Path, staged: Path, config: DataConfig) -> Accepted:
    """The image at `path`, in the folder `source` as `name`, whose normalised pixels this writes to
    the PNG `staged`. Rejected for a file that no dataset takes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Rejected("its name is not UTF-8; rename it") from None
    image, uncalibrated = load(path, source, config.maximum_pixels)
    shorter = min(image.size)
    if shorter < config.resolution:
        raise Rejected(
            f"{image.width}x{image.height} pixels: the shorter side is below data.resolution "
            f"({config.resolution})"
        )
    pixels = sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()
    image = fit(image, config.resolution)
    image.save(staged, "PNG", compress_level=PNG_COMPRESSION)
    phash = perceptual_hash(image)
    return Accepted(name, staged, pixels, file_digest(path), phash, uncalibrated)


def _refuse_equal_names(source: Path, images: Iterable[Accepted]) -> None:
    groups: dict[str, list[str]] = {}
    for image in images:
        groups.setdefault(image.name, []).append(image.source)
    equal = [" and ".join(group) for group in groups.values() if len(group) > 1]
    if equal:
        raise UserError(
            "\n".join([f"{source}: names may differ in more than their ending; rename:", *equal])
        )


def _write_split(
    output: Path,
    name: str,
    split: Iterable[Accepted],
    texts: dict[str, str],
    instance_prompt: str,
) -> None:
    with (output / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
        for image in split:
            target = output / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            image.staged.rename(target)
            row = {
                "file_name": image.name,
                "text": texts.get(image.source, instance_prompt),
                "sha256": image.sha256,
                "phash": image.phash.hex(),
            }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
