"""A change of a model's images before it is kept: what the dataset step would say of each file.

The plug `data` (see `core.family`). Captions may come along, as the dataset step reads them; they
are taken over and written to the metadata file of the folder, which keeps what it has.
"""

import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

from adire_assets.core.data_files import TAKEN_DOWN, content_files
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.core.files import read_json, write_bytes, write_json
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.data.caption_files import changed_metadata
from adire_assets.families.diffusion.data.captions import SIDECARS, read_captions
from adire_assets.families.diffusion.data.images import ENDINGS as PICTURES
from adire_assets.tracking.dvc.files import md5_of

TAKES = "images (PNG, JPEG, WebP, BMP, TIFF), with captions in metadata.csv or side-car .txt files"
ENDINGS = (*PICTURES, *SIDECARS, ".csv", ".jsonl")
TEXT = "Caption"
THUMBNAIL = 256  # pixels of the longer side
PROPOSED_AT_ONCE = 32  # images in memory


def is_item(name: str) -> bool:
    """Whether a file is an image, by its name; else it says captions."""
    return suffix_of(name) in PICTURES


def judge(
    *,
    source: str,
    files: Mapping[str, str],
    draft: str,
    added: Sequence[str],
    config: Mapping[str, Any],
    taken_down: Sequence[str],
    memory: str,
    pictures: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What the dataset step says of the files `added` in the folder `draft`, beside `files`, {name:
    MD5} in the folder `source`.

    {items: [{file, line, text, note, picture}] of what it takes; refused: [(file, sentence)];
    texts: {file: caption} that came along; consequences: sentences about `files`; whole: why the
    data together make no dataset yet, "" when they do}. `memory` is a JSON file of what is known
    of files by their SHA-256; `pictures` gets a small JPEG of each image, <MD5>.jpg.
    """
    from adire_assets.families.diffusion.config import DataConfig
    from adire_assets.families.diffusion.data.images import own_pixel_limit
    from adire_assets.families.diffusion.data.splits import Accepted

    settings = DataConfig.model_validate(config)
    place, folder = Path(source), Path(draft)
    texts, refused = _captions(folder, added)
    there = {n: path for n, path in content_files(place, files).items() if is_item(n)}
    new = {name: md5_of(folder / name) for name in added if is_item(name)}
    with own_pixel_limit(), _Looks(Path(memory), Path(pictures), settings) as looks:
        old = [looks.look(place, n, path, files[n]) for n, path in there.items()]
        seen = {n: looks.look(folder, n, folder / n, md5) for n, md5 in new.items()}
    images = [one for one in old if isinstance(one, Accepted)]
    refused += [(name, one) for name, one in seen.items() if isinstance(one, str)]
    candidates = [one for one in seen.values() if isinstance(one, Accepted)]
    found = _Beside(images, set(taken_down))
    kept = [one for one in candidates if found.takes(one, refused)]
    notes, consequences, whole = _splits(settings, images, kept, refused)
    left_out = {name for name, _ in refused}
    kept = [one for one in kept if one.source not in left_out]
    items = [
        {
            "file": one.source,
            "line": None,
            "text": "",
            "note": notes.get(one.source, ""),
            "picture": new[one.source],
        }
        for one in kept
    ]
    names = {one.source for one in kept}
    return {
        "items": items,
        "refused": refused,
        "texts": {name: text for name, text in texts.items() if name in names},
        "consequences": consequences,
        "whole": whole,
    }


def _captions(folder: Path, added: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """(captions, [(file, why it says none)]) of the files that came along."""
    said = [name for name in added if not is_item(name)]
    if not said:
        return {}, []
    try:
        found = read_captions(folder, content_files(folder, added))
    except UserError as error:
        mistakes = str(error).replace(f"{folder}", "the upload")
        return {}, [(name, mistakes) for name in said]
    return found.texts, [(name, why) for name, why in found.unused.items() if name in said]


class _Looks:
    """What is known of images that are taken, by the SHA-256 of their files."""

    def __init__(self, memory: Path, pictures: Path, settings: Any) -> None:
        self.memory, self.pictures, self.settings = memory, pictures, settings
        self.under = {key: getattr(settings, key) for key in ("resolution", "maximum_pixels")}

    def __enter__(self) -> "_Looks":
        self.pictures.mkdir(parents=True, exist_ok=True)
        try:
            known = read_json(self.memory)
        except (FileNotFoundError, UserError):  # only a memory
            known = {}
        self.known = known.get("files", {}) if known.get("under") == self.under else {}
        self.staging = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *_: object) -> None:
        self.staging.cleanup()
        write_json(self.memory, {"under": self.under, "files": self.known})

    def look(self, folder: Path, name: str, path: Path, md5: str) -> Any:
        """The image `Accepted`, or why no dataset takes it."""
        from adire_assets.families.diffusion.data.splits import Accepted

        with path.open("rb") as file:
            key = file_digest(file, "sha256").hexdigest()  # who means harm may choose an MD5
        facts = self.known.get(key)
        if facts is None:
            facts = self._read(folder, name, path, md5)
            if "reason" in facts:  # memory, say, that was short
                return facts["reason"]
            self.known[key] = facts
        facts = {**facts, "phash": bytes.fromhex(facts["phash"])}
        return Accepted(source=name, staged=Path(self.staging.name), **facts)

    def _read(self, folder: Path, name: str, path: Path, md5: str) -> dict[str, Any]:
        from PIL import Image

        from adire_assets.families.diffusion.data.dataset import normalise
        from adire_assets.families.diffusion.data.images import Rejected

        staged = Path(self.staging.name) / "image.png"
        try:
            found = normalise(folder, name, path, staged, self.settings)
        except Rejected as reason:
            return {"reason": str(reason)}
        except MemoryError:
            return {"reason": "takes more memory to read than a check may use; save it smaller"}
        with Image.open(staged) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            small = io.BytesIO()
            image.save(small, "JPEG", quality=80)
        write_bytes(self.pictures / f"{md5}.jpg", small.getvalue())
        kept = ("pixels", "sha256", "uncalibrated")
        return {key: getattr(found, key) for key in kept} | {"phash": found.phash.hex()}


class _Beside:
    """The images that are there, and what may not come beside them."""

    def __init__(self, images: Iterable[Any], taken_down: set[str]) -> None:
        self.taken_down = taken_down
        self.pixels: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.gone: set[str] = set()
        for one in images:
            self._keep(one)

    def takes(self, image: Any, refused: list[tuple[str, str]]) -> bool:
        """Whether an image may come too, as the next; else why not is in `refused`."""
        from adire_assets.families.diffusion.data.dataset_summary import SAME_IMAGE

        why = None
        if image.sha256 in self.taken_down or image.pixels in self.gone:
            why = TAKEN_DOWN
        elif image.pixels in self.pixels:
            why = f"{SAME_IMAGE}{self.pixels[image.pixels]}"
        elif image.name.casefold() in self.names:
            other = self.names[image.name.casefold()]
            why = f"has the name of {other} but for the ending or capitals; rename it"
        if why:
            refused.append((image.source, why))
            return False
        self._keep(image)
        return True

    def _keep(self, image: Any) -> None:
        self.pixels.setdefault(image.pixels, image.source)
        self.names.setdefault(image.name.casefold(), image.source)
        if image.sha256 in self.taken_down:
            self.gone.add(image.pixels)


def _splits(
    settings: Any, images: list[Any], kept: list[Any], refused: list[tuple[str, str]]
) -> tuple[dict[str, str], list[str], str]:
    """(notes of new images, consequences for those that are there, why it is no dataset yet); what
    is a near duplicate across splits is added to `refused`."""
    from adire_assets.families.diffusion.data import splits

    new = {one.source for one in kept}
    _, before = splits.split_images(images, settings)
    by_split, straddling = splits.split_images([*images, *kept], settings)
    refused += [(one.file, one.reason) for one in straddling if one.file in new]
    known = {one.file for one in before}
    consequences = [
        f"{one.file} is left out from now on: {one.reason}"
        for one in straddling
        if one.file not in new | known
    ]
    notes: dict[str, str] = {}
    for split in by_split.values():
        for near in splits.near_duplicates(split, settings):
            for one, other in ((near.file, near.of), (near.of, near.file)):
                if one in new:
                    said = f"looks like {other} ({near.distance} of 64 bits differ); both are kept"
                    notes.setdefault(one, said)
                    break
    whole = ""
    try:
        splits.refuse_too_few(Path(settings.path), settings, [*images, *kept], by_split, [])
    except UserError as error:
        whole = str(error)
    return notes, consequences, whole


def texts(source: Path, files: Iterable[str]) -> dict[str, str]:
    """{file: its caption} of images in a folder. UserError for mistakes in its caption files."""
    return read_captions(source, content_files(source, files)).texts


def lay_down(
    *,
    source: Path,
    files: Iterable[str],
    draft: Path,
    items: Iterable[Mapping[str, Any]],
    texts: Mapping[str, str],
    removed: Iterable[str],
    output: Path,
) -> dict[str, Path | None]:
    """What changes in the folder `source` of `files`: {name: its new content, None when it goes}.

    The images of `items` in `draft` come, those in `removed` go with their captions, and `texts`
    are written to the metadata files, which this makes in the folder `output`.
    """
    there, gone = content_files(source, files), set(removed)
    changes: dict[str, Path | None] = {one["file"]: draft / one["file"] for one in items}
    changes |= dict.fromkeys(gone)
    # A caption beside an image counts no more once the metadata say another.
    stems = {stem for name in gone | texts.keys() for stem in (name.rpartition(".")[0], name)}
    sidecars = [name for name in there if suffix_of(name) in SIDECARS]
    changes |= {name: None for name in sidecars if name.rpartition(".")[0] in stems}
    for number, (name, content) in enumerate(changed_metadata(there, texts, gone)):
        changes[name] = None
        if content is not None:
            changes[name] = output / f"{number}{suffix_of(name)}"
            write_bytes(output / f"{number}{suffix_of(name)}", content)
    return changes


def propose(
    *,
    judge: str,
    files: Mapping[str, str],
    data: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    progress: Progress | None = None,
) -> dict[str, str]:
    """A caption for each of `files`, {name: path}: the instance prompt, and of each attribute of
    the prompt set the value whose text the judge finds nearest to the image.

    A worker function. `judge` is the folder of a judge's artifact; without attributes it is the
    instance prompt alone.
    """
    import numpy as np

    from adire_assets.families.diffusion.artifacts import PIPELINE
    from adire_assets.families.diffusion.config import DataConfig
    from adire_assets.families.diffusion.data.images import load, own_pixel_limit
    from adire_assets.families.diffusion.evaluation.metrics.vectors import cosines

    settings = DataConfig.model_validate(data)
    attributes = (evaluation.get("prompt_set") or {}).get("attributes") or {}
    if not attributes:
        return dict.fromkeys(files, settings.instance_prompt)
    from adire_assets.families.diffusion.evaluation.judge import Judge

    judging = Judge(Path(judge) / PIPELINE)
    values = {name: judging.embed_texts([*texts.values()]) for name, texts in attributes.items()}
    found: dict[str, str] = {}
    names = list(files)
    for start in range(0, len(names), PROPOSED_AT_ONCE):
        some = names[start : start + PROPOSED_AT_ONCE]
        with own_pixel_limit():
            pictures = [
                _shrunk(load(path, path.parent, settings.maximum_pixels).image, settings.resolution)
                for path in (Path(files[name]) for name in some)
            ]
        seen = judging.embed_images([np.asarray(one) for one in pictures])
        for name, vector in zip(some, seen, strict=True):
            said = [
                [*attributes[one]][int(cosines(vector[None], known)[0].argmax())].replace("_", " ")
                for one, known in values.items()
            ]
            found[name] = ", ".join([settings.instance_prompt, *said])
        if progress:
            progress(f"{min(start + PROPOSED_AT_ONCE, len(names))} of {len(names)} captions")
    return found


def _shrunk(image: Any, resolution: int) -> Any:
    from adire_assets.families.diffusion.data.same_image import fit

    return fit(image, resolution)
