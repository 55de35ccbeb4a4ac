"""Adapters as folders for other programs, on the folders of artifacts.

peft     adapter_model.safetensors and adapter_config.json, as peft, vLLM and transformers
         read them; the release's facts stand in the metadata of the weights
merged   the base with the adapter's changes added to its weights, in the base's own types: a
         model for any program, with the facts in adire.json
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from adire_assets.core.disk import written_whole
from adire_assets.core.errors import UserError
from adire_assets.core.store import write_json
from adire_assets.core.worker import importing
from adire_assets.families.causal_lm.adapter_files import CONFIG, WEIGHTS, problems_of
from adire_assets.families.causal_lm.artifacts import BASE

FORMATS = ("peft", "merged")
FACTS = "adire.json"


def export(
    adapter: Path, base_model: Path, to: str | None, file: Path, facts: Mapping[str, str]
) -> str:
    """Write a folder's adapter into the new folder `file`; the format, by default the first."""
    form = to or FORMATS[0]
    if form not in FORMATS:
        raise UserError(f"--format: there is no format {form}; formats: {', '.join(FORMATS)}")
    if file.exists():
        raise UserError(f"{file} exists already; {form} is a folder, so name a new one")
    with written_whole(file) as folder:
        folder.mkdir()
        if form == "merged":
            _merge(adapter, base_model / BASE, folder)
            write_json(folder / FACTS, dict(facts))
        else:
            _copy(adapter, folder, facts)
    return form


def import_(file: Path, base_model: Path, folder: Path) -> str:
    """Make the new `folder` of an adapter whose weights are `file`; adapter_config.json is beside
    it. UserError when it is no adapter of this base that would be served."""
    if file.name != WEIGHTS:
        raise UserError(f"{file}: name the {WEIGHTS} of a folder that peft has written")
    if not (file.parent / CONFIG).is_file():
        raise UserError(f"{file}: {CONFIG} is missing beside it; take the whole folder along")
    with written_whole(folder) as made:
        made.mkdir()
        for name in (WEIGHTS, CONFIG):
            shutil.copyfile(file.parent / name, made / name)
        if problems := problems_of(made, base_model / BASE):
            raise UserError(f"{file} is no adapter of this base: {'; '.join(problems[:3])}")
    return FORMATS[0]


def _copy(adapter: Path, folder: Path, facts: Mapping[str, str]) -> None:
    from safetensors.numpy import load_file, save_file

    save_file(load_file(adapter / WEIGHTS), folder / WEIGHTS, {"format": "pt", **facts})
    shutil.copyfile(adapter / CONFIG, folder / CONFIG)


def _merge(adapter: Path, base: Path, folder: Path) -> None:
    with importing():
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

    logging.disable_progress_bar()
    for file in base.iterdir():
        if file.is_file() and ".safetensors" not in file.name:
            shutil.copyfile(file, folder / file.name)
    own = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    kind = own.dtype
    # Added in float32: in a coarser type small changes would be lost twice.
    merged = PeftModel.from_pretrained(own.float(), adapter).merge_and_unload()
    with torch.no_grad():
        merged.to(kind).save_pretrained(folder)
