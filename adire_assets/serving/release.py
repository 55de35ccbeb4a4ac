"""Releases: what Triton serves as version N, and the record that says what N is made of.

A release's content is an artifact of kind "triton_repository" without its number:

    model.py, ...     the backend of the family, and the modules that it takes along
    adapter/...       the files of the adapter that are served
    serving.json      limits on requests, and the folder name of the base model
    config.pbtxt      the model's Triton configuration
    stream.pbtxt      where the backend has one: that of <model>_stream, the same files once more

The record <home>/releases/<model>/<N>.json binds the number to that content; a number never comes
to mean another content. `install` puts a release into a slot's folder, where Triton serves it:

    models/<model>/config.pbtxt, models/<model>/<N>/...     a version, whole, with provenance.json
    models/<model>_stream/config.pbtxt, .../<N>             a link to that
    base_models/<first 32 digits of the content hash>/      the files of the base model
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

from adire_assets.config.model import STREAMS, family_of
from adire_assets.core import lineage
from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family
from adire_assets.core.file_names import is_content
from adire_assets.core.project import Project
from adire_assets.core.records import Record
from adire_assets.core.store import (
    Artifact,
    Store,
    hard_link_or_copy,
    read_json,
    write_bytes,
    write_json,
)

BASE_DIGITS = 32
CONFIG = "config.pbtxt"  # of the model, not of one version
STREAM_CONFIG = "stream.pbtxt"  # likewise; in a backend, what that of streams has besides
TEMPLATES = (".pbtxt", ".json")  # files of a backend that are written for each release
# Python's cache in a version folder makes Triton take the version for changed and initialize it
# again at the next load; a file of that name keeps the cache from being made.
NO_CACHE = "__pycache__"
Reference = dict[str, str]
INSTALL_LOCK = "install"  # held while the files of any slot change


@dataclass(frozen=True)
class ReleaseRecord:
    """What release `number` of `model` is; the references are those of `Artifact.reference()`."""

    model: str
    number: int
    repository: Reference
    adapter: Reference
    base_model: Reference
    evaluation: Reference
    verdict: Reference
    mlflow_run_id: str | None
    provenance: dict[str, Any]
    golden: Reference | None = None  # to be made again after an upgrade
    family: str = ""  # "": what the model's YAML says
    engine: str = ""  # its `serving.engine`; "": what serves all of the family
    streams: bool = False  # whether it is served as <model>_stream too
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def is_of(self, evaluation: Mapping[str, Any]) -> bool:
        """Whether the evaluation with this manifest is of this release's adapter on its base."""
        return (
            evaluation["lora_weights"]["content_hash"] == self.adapter["content_hash"]
            and evaluation["base_model"]["content_hash"] == self.base_model["content_hash"]
        )


def family_of_release(project: Project, record: ReleaseRecord) -> Family:
    """The family of a release, as the release is served, whatever became of its model's YAML."""
    if not record.family:
        return family_of(project, record.model)
    return family(record.family).served_by(record.engine)


def backend_hash(project: Project, plug: Family) -> str:
    """SHA-256 of the backend and its config template; comments do not count in Python files."""
    files = _backend(project, plug).items()
    hashes = {".py": lineage.syntax_hash}
    return lineage.digest({name: hashes.get(p.suffix, lineage.file_digest)(p) for name, p in files})


def write_release(
    project: Project,
    plug: Family,
    output: Path,
    *,
    model: str,
    adapter: Path,
    base: Artifact,
    serving: Mapping[str, Any],
) -> None:
    """Write a release's content into the empty folder `output`. `adapter`: the adapter's folder;
    `serving`: the resolved section of the YAML, whose values the templates take, beside `name` and
    the folder name of the base, `base_model`."""
    sources = lineage.sources(plug.release.modules)
    files = {
        **_backend(project, plug),
        **{f"{name.rpartition('.')[2]}.py": sources[name] for name in plug.release.modules},
        **{f"adapter/{name}": adapter / name for name in plug.adapter_files},
    }
    _copy(files, output, shutil.copyfile)
    limits = {**serving, "base_model": base.content_hash[:BASE_DIGITS]}

    def filled(template: str, name: str) -> str:
        return Template(files[template].read_text(encoding="utf-8")).substitute(limits, name=name)

    for name in _backend(project, plug):
        if name == STREAM_CONFIG:
            text = filled(CONFIG, stream_name(model)) + filled(name, stream_name(model))
            (output / name).write_text(text, encoding="utf-8")
        elif name.endswith(TEMPLATES):
            (output / name).write_text(filled(name, model), encoding="utf-8")
    write_json(output / "serving.json", limits)


def write_record(project: Project, record: ReleaseRecord) -> ReleaseRecord:
    """Keep `record`. Its number stays bound to the first content that it was recorded with.

    A later evaluation of the same content takes the place of the earlier one. UserError when the
    number belongs to other content.
    """
    name = f"releases/{record.model}/{record.number}"
    place = project.records.read(name).place

    def bound(value: Any) -> dict[str, Any]:
        if value is None:
            return asdict(record)
        known = Record(place, value).as_kind(ReleaseRecord)
        if known.repository["content_hash"] != record.repository["content_hash"]:
            raise UserError(
                f"release {record.number} of {record.model} is already "
                f"{known.repository['content_hash'][:12]}, not "
                f"{record.repository['content_hash'][:12]} ({place}); MLflow's numbers were "
                "reset: point ADIRE_HOME at a new home, or restore the MLflow database"
            )
        return {**asdict(record), "created": known.created}

    return project.records.change(name, bound).as_kind(ReleaseRecord)


def find_record(project: Project, model: str, number: int) -> ReleaseRecord | None:
    """The record of release `number`, None when there is none. UserError when it is damaged."""
    found = project.records.read(f"releases/{model}/{number}")
    return None if found.value is None else found.as_kind(ReleaseRecord)


def read_record(project: Project, model: str, number: int) -> ReleaseRecord:
    """The record of release `number`. UserError when there is none."""
    found = find_record(project, model, number)
    if found is None:
        known = ", ".join(str(record.number) for record in records(project, model)) or "none"
        raise UserError(f"there is no release {number} of {model}; releases here: {known}")
    return found


def record_named(project: Project, name: str) -> ReleaseRecord:
    """The record of a release that is named like indigo@3. UserError when there is none."""
    found = re.fullmatch(r"([a-z][a-z0-9_]*)@([0-9]+)", name)
    if found is None:
        raise UserError(f"{name}: a release is named like indigo@3")
    return read_record(project, found[1], int(found[2]))


def provenance(record: ReleaseRecord) -> dict[str, Any]:
    """What each answer of a release tells of it."""
    return {
        **record.provenance,
        "model": record.model,
        "release": record.number,
        "release_hash": record.repository["content_hash"],
        "mlflow_run_id": record.mlflow_run_id,
    }


def records(project: Project, model: str) -> list[ReleaseRecord]:
    """Every release of `model`, by number."""
    names = project.records.list(f"releases/{model}")
    found = (project.records.read(name).as_kind(ReleaseRecord) for name in names)
    return sorted(found, key=lambda record: record.number)


def record_of(project: Project, repository: Artifact) -> ReleaseRecord:
    """The release with this content. UserError when it was never given a number."""
    for record in reversed(records(project, repository.model)):
        if record.repository["content_hash"] == repository.content_hash:
            return record
    raise UserError(
        f"{repository.path} has no release number; materialize {repository.model}/triton_repository"
    )


def stream_name(model: str) -> str:
    """What the releases of a model that are served in streams too are asked by for them."""
    return model + STREAMS


def model_named(name: str) -> str:
    """The model that a folder below models/ of a slot belongs to."""
    return name.removesuffix(STREAMS)


def has_streams(repository: Artifact) -> bool:
    """Whether a release with this content is served in streams too."""
    return STREAM_CONFIG in repository.manifest["files"]


def install(project: Project, record: ReleaseRecord, slot: Path) -> None:
    """Put a release into a slot's folder, whole or not at all; nothing to do when it is there.

    Triton notices at its next load. UserError when an artifact of the release is gone.
    """
    store = Store(project)
    content, base = store.open(record.repository), store.open(record.base_model)
    model = slot / "models" / record.model

    def copy_base(folder: Path) -> None:
        _copy(_content(base), folder, hard_link_or_copy)

    def copy_version(folder: Path) -> None:
        _copy(_content(content), folder, shutil.copyfile)
        write_json(folder / "provenance.json", provenance(record))
        (folder / NO_CACHE).touch()

    with project.locks.acquire(INSTALL_LOCK):
        base_folder = slot / "base_models" / base.content_hash[:BASE_DIGITS]
        if not base_folder.is_dir():
            _place(base_folder, copy_base)
        version = model / str(record.number)
        held = version / "provenance.json"
        if not held.is_file() or read_json(held)["release_hash"] != content.content_hash:
            remove(slot, record.model, record.number)
            _place(version, copy_version)
        _write_changed(model / CONFIG, content.path / CONFIG)
        if record.streams:
            streams = slot / "models" / stream_name(record.model)
            _write_changed(streams / CONFIG, content.path / STREAM_CONFIG)
            link = streams / version.name
            if not link.is_symlink():
                link.symlink_to(Path("..", *version.parts[-2:]))


def _write_changed(config: Path, source: Path) -> None:
    """Only where it differs: touching a config makes Triton initialize all versions."""
    if not config.is_file() or config.read_bytes() != source.read_bytes():
        write_bytes(config, source.read_bytes())


def installed(slot: Path, model: str) -> list[int]:
    """The numbers of the releases in a slot's folder, ascending."""
    return sorted(int(path.name) for path in (slot / "models" / model).glob("[0-9]*"))


def remove(slot: Path, model: str, number: int) -> None:
    """Take a release out of a slot's folder; Triton lets go of it at its next load."""
    version = slot / "models" / model / str(number)
    gone = version.with_name(f".{number}.gone")
    (slot / "models" / stream_name(model) / version.name).unlink(missing_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    if version.is_dir():
        # Renamed first: Triton must never find a version folder that is half there.
        version.rename(gone)
        shutil.rmtree(gone)


def unused_bases(slot: Path) -> list[Path]:
    """The copies of bases, whole or half made, that no release in the slot's folder refers to.

    The caller holds INSTALL_LOCK.
    """
    settings = slot.glob("models/*/*/serving.json")
    used = {read_json(path)["base_model"] for path in settings}
    found = [path for path in sorted(slot.glob("base_models/*")) if path.is_dir()]
    return [path for path in found if path.name not in used]


def _place(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder` whole under a temporary name, then rename it."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(folder):
            temporary.mkdir(parents=True)
            fill(temporary)
            temporary.rename(folder)
    finally:  # on a full disk too
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(files: Mapping[str, Path], folder: Path, copy: Callable[[Path, Path], object]) -> None:
    """`files`: each by its name in the folder."""
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source, folder / name)


def _content(artifact: Artifact) -> dict[str, Path]:
    names = set(artifact.manifest["files"]) - {CONFIG, STREAM_CONFIG}
    return {name: artifact.path / name for name in names}


def _backend(project: Project, plug: Family) -> dict[str, Path]:
    """{name: file} of the family's backend. UserError when it is not there."""
    folder = project.root / plug.backend
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    found = {name: path for name, path in files.items() if path.is_file() and is_content(name)}
    if CONFIG not in found:
        raise UserError(
            f"{folder} has no {CONFIG}: the Triton backend of family {plug.name} lies there; take "
            "it from the repository, or from what `adire init DIRECTORY` writes"
        )
    return found
