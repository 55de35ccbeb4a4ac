"""Adapters as files for other programs, on the folders of artifacts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.artifacts import PIPELINE
from adire_assets.families.diffusion.formats import adapters
from adire_assets.families.diffusion.formats.base_names import Format

FORMATS = get_args(Format)


def export(
    adapter: Path, base_model: Path, to: str | None, file: Path, facts: Mapping[str, str]
) -> str:
    """Write the adapter in a folder for another program; the format, by default the first.

    The release's `facts` go into the file's metadata, some of them under kohya's names as well,
    which other programs know how to show.
    """
    form = to or FORMATS[0]
    if form not in FORMATS:
        raise UserError(f"--format: there is no format {form}; formats: {', '.join(FORMATS)}")
    told = {"ss_output_name": f"{facts['adire.model']}-{facts['adire.release']}"}
    if source := json.loads(facts["adire.base_model"]).get("source"):
        told["ss_sd_model_name"] = source
    adapters.export(adapter, base_model / PIPELINE, cast(Format, form), file, {**facts, **told})
    return form


def import_(file: Path, base_model: Path, folder: Path) -> str:
    """Make the new `folder` of an adapter's file; the format that it had."""
    return adapters.import_(file, base_model / PIPELINE, folder)
