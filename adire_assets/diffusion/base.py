"""Base models: a folder or a hub id at a commit becomes files on this disk and a content hash.

`resolve` answers for pipelines (`model_index.json`) and, with `marker="config.json"`, for single
models such as the judge. A folder's hash covers names and bytes, never times; a hub model's is its
commit. Weights are safetensors: a folder that has nothing but pickles is refused. Torch is not
imported here, because every Dagster process is.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from adire_assets.errors import UserError
from adire_assets.lineage import folder_digest

PIPELINE_MARKER = "model_index.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
NOT_CONTENT = (".cache", ".git", ".gitignore", ".gitattributes")  # what tools leave in folders
TEXT_FILES = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class ResolvedBase:
    """A base model on this disk; `identity` is what to call it, `content_hash` what it is."""

    path: Path
    identity: str
    content_hash: str


def resolve(
    source: str,
    revision: str | None,
    variant: str | None,
    root: Path,
    *,
    marker: str = PIPELINE_MARKER,
    key: str = "base_model",
) -> ResolvedBase:
    """The model that a config names: a folder (absolute, or below `root`), or with a `revision`
    (40 hexadecimal digits) a hub id, downloaded on first use.

    `key` is the config section that messages name. UserError when the model is missing, cannot be
    fetched, or is not a safetensors model of the asked `variant`.
    """
    if revision is not None:
        path = _from_hub(source, revision, variant, marker, key)
        return ResolvedBase(path, f"{source}@{revision}", revision)
    path = (root / source).resolve()
    if not path.is_dir():
        raise UserError(
            f"{key}.source: there is no folder {path}; `adire pull` fetches the embedded models, "
            f"or set {key}.source to another folder, or to a hub id together with {key}.revision"
        )
    problem = problem_with(path, variant, marker)
    if problem:
        raise UserError(f"{key}: {path}: {problem}")
    return ResolvedBase(path, source, content_hash(path))


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model's files."""
    folder = folder.resolve()
    found = (
        (path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file()
    )
    counted = [(name, path) for name, path in found if name.parts[0] not in NOT_CONTENT]
    stats = tuple(
        (str(name), path.stat().st_size, path.stat().st_mtime_ns) for name, path in counted
    )
    return _digest(folder, stats)


@cache
def _digest(folder: Path, stats: tuple) -> str:
    """Gigabytes are read once per process, and again when a name, size or time has changed."""
    return folder_digest(folder, NOT_CONTENT)[0]


def problem_with(folder: Path, variant: str | None, marker: str = PIPELINE_MARKER) -> str | None:
    """What keeps `folder` from being loaded as safetensors of `variant`, or None."""
    try:
        index = json.loads((folder / marker).read_text(encoding="utf-8"))
    except FileNotFoundError:
        kind = "a diffusers pipeline" if marker == PIPELINE_MARKER else "a transformers model"
        return f"not {kind}, because {marker} is missing"
    except ValueError as error:
        return f"{marker} is not valid JSON ({error})"
    if marker != PIPELINE_MARKER:
        return _weights_problem(folder, variant)
    for name, entry in sorted(index.items()):
        if name.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        if name in ("safety_checker", "feature_extractor", "image_encoder"):
            continue  # never loaded
        if not (folder / name).is_dir():
            return f"incomplete, the folder {name}/ that {marker} names is missing"
        if name in ("scheduler", "tokenizer", "tokenizer_2"):
            continue
        if problem := _weights_problem(folder / name, variant):
            return f"{name}/ {problem}"
    return None


def _weights_problem(folder: Path, variant: str | None) -> str | None:
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            return (
                f"holds only pickled weights ({pickles[0]}), which can run code when they are "
                "loaded; convert them to safetensors"
            )
        return "holds no .safetensors weights"
    # Files are name.safetensors or name.variant.safetensors, shards name.variant-00001-of-....
    found = {name.split(".")[1].split("-")[0] if name.count(".") > 1 else None for name in weights}
    if variant not in found:
        has = ", ".join(sorted(str(item) if item else "none" for item in found))
        return f"has no weights of variant {variant or 'none'}; variants there: {has}"
    return None


def _from_hub(source: str, revision: str, variant: str | None, marker: str, key: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # A component lies in a folder of its own; whole-model checkpoints beside them are not needed.
    below = "*/" if marker == PIPELINE_MARKER else ""
    allowed = [marker, *(below + pattern for pattern in TEXT_FILES)]
    allowed.append(f"{below}*.{variant}*safetensors" if variant else f"{below}*.safetensors")
    ignored = ["safety_checker/*", "image_encoder/*", *([] if variant else ["*.*.safetensors"])]

    def snapshot(local_files_only: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                source,
                revision=revision,
                allow_patterns=allowed,
                ignore_patterns=ignored,
                local_files_only=local_files_only,
            )
        )

    try:
        cached = snapshot(local_files_only=True)
        if problem_with(cached, variant, marker) is None:
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        path = snapshot(local_files_only=False)
    except GatedRepoError:
        raise UserError(
            f"{key}.source: {source} asks for its licence to be accepted: do so on its page, then "
            "`hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{key}.revision: {source} has no commit {revision}") from None
    except RepositoryNotFoundError:
        raise UserError(f"{key}.source: the hub has no model {source} that you may read") from None
    except (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{key}.source: {source} at {revision[:12]} is not in the cache and cannot be fetched "
            f"({reason}); where there is a network, run `hf download {source} --revision "
            f"{revision}`, and point HF_HOME at that cache here"
        ) from None
    problem = problem_with(path, variant, marker)
    if problem:
        raise UserError(f"{key}: {source} at {revision[:12]}: {problem}")
    return path
