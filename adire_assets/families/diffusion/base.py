"""Base models: what a config names becomes files on this disk and a content hash.

`resolve` answers for pipelines (a diffusers folder, a hub id at a commit, or a single .safetensors
file) and, with `marker="config.json"`, for single models such as the judge. A folder's hash covers
names and bytes, never times; a file's is its SHA-256, a hub model's its commit. `resolve_config`
finds what a single file lacks: the configs and tokenizers of its architecture, never weights.
Weights are safetensors: pickles are refused. Torch is not imported here, because every Dagster
process imports this.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.core.lineage import digest
from adire_assets.core.model_files import content_hash, file_hash
from adire_assets.families.diffusion.engine.architectures import ARCHITECTURES, INDEX, NEVER_LOADED

PIPELINE_MARKER = INDEX
SINGLE_FILE = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
TEXT_FILES = ("*.json", "*.txt", "*.model")
CONFIG_FILES = ("*.json", "*.txt")
WITHOUT_WEIGHTS = ("scheduler", "tokenizer")  # how their names begin


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
    sha256: str | None = None,
) -> ResolvedBase:
    """The model that a config names: a folder or a .safetensors file (absolute, or below `root`),
    or with a `revision` (40 hexadecimal digits) a hub id, downloaded on first use.

    `key` is the config section that messages name. UserError when the model is missing, cannot be
    fetched, is not a safetensors model of the asked `variant`, or has another hash than `sha256`.
    """
    if revision is not None:
        path = _weights_from_hub(source, revision, variant, marker, key)
        return ResolvedBase(path, f"{source}@{revision}", revision)
    path = _place(root, source, key)
    if suffix_of(path.name) in PICKLES and not path.is_dir():
        raise UserError(
            f"{key}.source: {path} is pickled, which can run code when it is loaded; convert it to "
            ".safetensors"
        )
    if suffix_of(path.name) == SINGLE_FILE and marker == PIPELINE_MARKER and not path.is_dir():
        found = _file_hash(path, key)
    else:
        found = _folder_hash(path, variant, marker, key)
    if sha256 not in (None, found):
        raise UserError(
            f"{key}.sha256: {path} has the hash {found}, but {sha256} is pinned; put the pinned "
            f"weights back, or set {key}.sha256 to {found} if these are the ones you want"
        )
    return ResolvedBase(path, source, found)


def _place(root: Path, source: str, key: str) -> Path:
    try:
        return (root / source).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise UserError(f"{key}.source: {source} cannot be followed ({error})") from None


def _file_hash(path: Path, key: str) -> str:
    if not path.is_file():
        raise UserError(
            f"{key}.source: there is no file {path}; put the checkpoint there, or set {key}.source "
            "to another file or folder, or to a hub id together with a revision"
        )
    return file_hash(path)


def _folder_hash(path: Path, variant: str | None, marker: str, key: str) -> str:
    if not path.is_dir():
        raise UserError(
            f"{key}.source: there is no folder {path}; `adire pull` fetches the embedded models, "
            f"or set {key}.source to another folder, or to a hub id together with {key}.revision"
        )
    if problem := problem_with(path, variant, marker):
        raise UserError(f"{key}: {path}: {problem}")
    return content_hash(path)


def resolve_config(
    source: str, revision: str | None, root: Path, key: str = "base_model.config"
) -> ResolvedBase:
    """The pipeline folder whose configs and tokenizers a single file goes by; weights in it do not
    count. UserError when it is missing, cannot be fetched or is no such pipeline.
    """
    if revision is not None:
        patterns = [PIPELINE_MARKER, *(f"*/{pattern}" for pattern in CONFIG_FILES)]
        ignored = [f"{name}/*" for name in NEVER_LOADED]
        path = _from_hub(source, revision, patterns, ignored, config_problem, key)
        return ResolvedBase(path, f"{source}@{revision}", revision)
    path = _place(root, source, key)
    if not path.is_dir():
        raise UserError(
            f"{key}.source: there is no folder {path}; name a diffusers folder, or a hub id "
            f"together with {key}.revision"
        )
    if problem := config_problem(path):
        raise UserError(f"{key}: {path}: {problem}")
    files = {name.as_posix(): file_hash(path / name) for name in _config_files(path)}
    return ResolvedBase(path, source, digest(files))


def _config_files(folder: Path) -> list[Path]:
    """Relative paths of a pipeline's configs and tokenizers, sorted."""
    names = [Path(PIPELINE_MARKER)]
    for component in _components(json.loads((folder / PIPELINE_MARKER).read_text("utf-8"))):
        for pattern in CONFIG_FILES:
            names += [path.relative_to(folder) for path in (folder / component).glob(pattern)]
    return sorted(names)


def problem_with(folder: Path, variant: str | None, marker: str = PIPELINE_MARKER) -> str | None:
    """What keeps `folder` from being loaded as safetensors of `variant`, or None."""
    index, problem = _index(folder, marker)
    if problem or marker != PIPELINE_MARKER:
        return problem or _weights_problem(folder, variant)
    for name in _components(index):
        if not (folder / name).is_dir():
            return f"incomplete, the folder {name}/ that {marker} names is missing"
        has_weights = not name.startswith(WITHOUT_WEIGHTS)
        if has_weights and (problem := _weights_problem(folder / name, variant)):
            return f"{name}/ {problem}"
    return None


def config_problem(folder: Path) -> str | None:
    """What keeps a single file from going by the configs in `folder`, or None."""
    index, problem = _index(folder, PIPELINE_MARKER)
    if problem:
        return problem
    for name in _components(index):
        if not any((folder / name).glob("*.json")):
            return f"incomplete, {name}/ that {PIPELINE_MARKER} names has no .json files"
    return None


def _index(folder: Path, marker: str) -> tuple[dict, str | None]:
    """(content of the marker file, what is wrong with it)."""
    try:
        index = json.loads((folder / marker).read_text(encoding="utf-8"))
    except FileNotFoundError:
        kind = "a diffusers pipeline" if marker == PIPELINE_MARKER else "a transformers model"
        return {}, f"not {kind}, because {marker} is missing"
    except ValueError as error:
        return {}, f"{marker} is not valid JSON ({error})"
    if marker == PIPELINE_MARKER and index.get("_class_name") not in ARCHITECTURES:
        known = ", ".join(f"{kind.name} ({pipe})" for pipe, kind in ARCHITECTURES.items())
        return {}, f"{marker} names a {index.get('_class_name')}; base models are {known}"
    return index, None


def _components(index: dict) -> list[str]:
    """The folders of a pipeline that are loaded, sorted."""
    return [
        name
        for name, entry in sorted(index.items())
        if not name.startswith("_")
        and isinstance(entry, list)
        and entry[0] is not None
        and name not in NEVER_LOADED
    ]


def _weights_problem(folder: Path, variant: str | None) -> str | None:
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in folder.iterdir() if suffix_of(path.name) in PICKLES)
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
    # numpy: not in every process
    from adire_assets.families.diffusion.safetensors_file import problem

    for name in weights:
        if wrong := problem(folder / name):
            return f"{name} {wrong}"
    return None


def _weights_from_hub(
    source: str, revision: str, variant: str | None, marker: str, key: str
) -> Path:
    # A component lies in a folder of its own; whole-model checkpoints beside them are not needed.
    below = "*/" if marker == PIPELINE_MARKER else ""
    allowed = [marker, *(below + pattern for pattern in TEXT_FILES)]
    allowed.append(f"{below}*.{variant}*safetensors" if variant else f"{below}*.safetensors")
    # SDXL's repository holds its autoencoder in other versions and formats too.
    ignored = ["safety_checker/*", "image_encoder/*", "vae_*/*"]
    ignored += [] if variant else ["*.*.safetensors"]
    return _from_hub(
        source, revision, allowed, ignored, lambda path: problem_with(path, variant, marker), key
    )


def _from_hub(
    source: str,
    revision: str,
    allowed: Sequence[str],
    ignored: Sequence[str],
    problem_of: Callable[[Path], str | None],
    key: str,
) -> Path:
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

    def snapshot(local_files_only: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                source,
                revision=revision,
                allow_patterns=list(allowed),
                ignore_patterns=list(ignored),
                local_files_only=local_files_only,
            )
        )

    try:
        cached = snapshot(local_files_only=True)
        if problem_of(cached) is None:
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
    if problem := problem_of(path):
        raise UserError(f"{key}: {source} at {revision[:12]}: {problem}")
    return path
