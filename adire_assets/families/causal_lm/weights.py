"""The base model as its config names it now, and the words that answers are held against."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adire_assets.core.errors import UserError
from adire_assets.core.lineage import Recipe, digest
from adire_assets.core.model_files import NOT_CONTENT, content_hash
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact, hard_link_or_copy, read_json, write_json
from adire_assets.core.worker import RunWorker
from adire_assets.families.causal_lm.artifacts import BASE, WORDS
from adire_assets.families.causal_lm.config import CausalLMConfig, read_words

NEEDED = ("config.json", "tokenizer.json")


def recipe(project: Project, model: str, config: CausalLMConfig, kind: str) -> Recipe:
    """What the base model, or the judge's list of words, is made from as the config says now."""
    if kind == "judge":
        return Recipe(kind, model, inputs={"weights": digest(_words(project, config))})
    folder = _folder(project, config)
    content, pinned = content_hash(folder), config.base_model.sha256
    if pinned is not None and content != pinned:
        raise UserError(
            f"base_model.sha256: {folder} is {content}; put the pinned files there, or change the "
            "pin"
        )
    _require_context(folder, config)
    return Recipe(kind, model, inputs={"weights": content})


def make(
    project: Project,
    config: CausalLMConfig,
    recipe: Recipe,
    folder: Path,
    run_worker: RunWorker | None,
) -> dict[str, Any]:
    """Fill the folder of the base model or of the judge; what its manifest says of the source."""
    if recipe.kind == "judge":
        write_json(folder / WORDS, _words(project, config))
        return {"source": config.evaluation.toxic_words or "none", "revision": None}
    source = config.base_model
    _require_chat(_folder(project, config))
    copy = hard_link_or_copy if source.is_hub else shutil.copyfile
    _copy(_folder(project, config), folder, copy)
    return {"source": source.source, "revision": source.revision}


def find_again(project: Project, recorded: Artifact, folder: Path) -> str:
    """Make the new `folder` that of a base model which the store no longer holds; its name.

    UserError when its source holds other weights now.
    """
    source, revision = recorded.manifest["source"], recorded.manifest["revision"]
    found = _found(project, source, revision)
    if content_hash(found) != recorded.manifest["recipe"]["inputs"]["weights"]:
        raise UserError(
            f"the base model {source} is no longer in the store, and {found} is other weights now; "
            "put those of then back there"
        )
    _copy(found, folder, hard_link_or_copy)
    return source


def _copy(base: Path, folder: Path, copy: Callable[[str, str], object]) -> None:
    left_out = shutil.ignore_patterns(*NOT_CONTENT)
    shutil.copytree(base, folder / BASE, copy_function=copy, ignore=left_out)


def _words(project: Project, config: CausalLMConfig) -> list[str]:
    named = config.evaluation.toxic_words
    return read_words(project, named, "evaluation.toxic_words") if named else []


def _folder(project: Project, config: CausalLMConfig) -> Path:
    return _found(project, config.base_model.source, config.base_model.revision)


def _require_context(folder: Path, config: CausalLMConfig) -> None:
    """UserError where more tokens are asked for than the base reads."""
    most = read_json(folder / "config.json").get("max_position_embeddings")
    for key, asked in (
        ("training.max_length", config.training.max_length),
        ("serving.maximum_model_length", config.serving.maximum_model_length),
    ):
        if most and asked > most:
            raise UserError(
                f"{key}: {asked} tokens are more than the {most} that {folder} reads; lower it"
            )


def _require_chat(folder: Path) -> None:
    """UserError where the tokenizer cannot write a conversation, or is another base's."""
    own = folder / "tokenizer_config.json"
    said = read_json(own) if own.is_file() else {}
    if not (folder / "chat_template.jinja").is_file() and not said.get("chat_template"):
        raise UserError(
            f"base_model: the tokenizer of {folder} has no chat template; take an "
            "instruction-tuned base, or put its template into the folder as chat_template.jinja"
        )
    tokenizer = read_json(folder / "tokenizer.json")
    known = tokenizer["model"].get("vocab", {})
    numbers = [one["id"] for one in tokenizer.get("added_tokens", ())]
    numbers += known.values() if isinstance(known, dict) else [len(known) - 1]
    rows = read_json(folder / "config.json").get("vocab_size")
    if rows and max(numbers, default=0) >= rows:
        raise UserError(
            f"base_model: tokenizer.json of {folder} has tokens up to {max(numbers)}, its model "
            f"{rows}: it is another base's; put this base's own there"
        )


def _found(project: Project, source: str, revision: str | None) -> Path:
    """The folder of a base. UserError where it is none that transformers reads without code."""
    folder = _from_hub(source, revision) if revision else (project.root / source).resolve()
    if not folder.is_dir():
        raise UserError(
            f"base_model.source: {folder} is no folder; `adire pull` fetches the "
            "embedded models, or name another"
        )
    if lacking := [name for name in NEEDED if not (folder / name).is_file()]:
        raise UserError(f"base_model.source: {folder} has no {lacking[0]}; name a model's folder")
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"base_model.source: {folder} has no .safetensors file; convert the weights to that"
        )
    return folder


def _from_hub(source: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.*"]
        return Path(snapshot_download(source, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"base_model.source: {source} at {revision} cannot be had ({reason}); check the id, "
            "log in with `hf auth login`, or name a folder"
        ) from None
