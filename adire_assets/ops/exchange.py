"""Adapters out of and into a project: a release's LoRA as a file, and a file as a LoRA's folder.

An exported file says in its metadata, under `adire.*`, which release and recipe it is; so it can be
traced without this project's home.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import family_of
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Store
from adire_assets.line import sources
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment


def export(project: Project, name: str, to: str | None, file: Path) -> str:
    """Write the adapter of `model@N`, or of the live release of `model`; what was written.

    `to` is a format of the family, None its own. UserError when there is no such release, its
    adapter is gone or changed, or the format cannot express it.
    """
    record = deployment.resolve_release(project, load_fleet(project), name)
    store = Store(project)
    adapter, base = store.open(record.adapter), store.open(record.base_model)
    store.verify(adapter)
    formats = _formats(project, record.model)
    form = formats.export(adapter.path, base.path, to, file, _facts(record))
    return f"release {record.number} in the format {form}"


def import_(project: Project, file: Path, model: str, folder: Path) -> str:
    """Convert the adapter `file` for the base of `model` into the new `folder`; the file's format.

    UserError when it is no adapter of that base, in a format of the family.
    """

    def convert(*_: object, **__: object) -> NoReturn:
        raise UserError(
            f"the base of {model} is a single file that is not converted yet; run "
            f"`adire materialize {model} --select base_model` first"
        )

    formats = _formats(project, model)
    base = sources.base_model(project, model, convert).artifact
    return formats.import_(file, base.path, folder)


def _formats(project: Project, model: str) -> Any:
    plug = family_of(project, model)
    if plug.formats is None:
        raise UserError(f"{model} is a model of the family {plug.name}, which has no other formats")
    return plug.formats.functions


def _facts(record: ReleaseRecord) -> dict[str, str]:
    """What the file's metadata says of the release; names as in the provenance of its answers."""
    told = record.provenance
    kept = ("code", "dvc_hash", "data_hash", "hyperparameters", "evaluation")
    base: dict[str, Any] = told.get("base_model", {})
    facts = {
        "adire.model": record.model,
        "adire.release": record.number,
        "adire.adapter_recipe_key": record.adapter["key"],
        "adire.adapter_hash": record.adapter["content_hash"],
        "adire.base_model": {**base, "hash": record.base_model["content_hash"]},
        "adire.mlflow_run_id": record.mlflow_run_id,
        **{f"adire.{key}": told[key] for key in kept if key in told},
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in facts.items()
        if value is not None
    }
