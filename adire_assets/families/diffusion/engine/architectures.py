"""The architectures that bases may have, by the pipeline of diffusers that their index names.

A new one is a module like `stable_diffusion`, a line in ARCHITECTURES, and its name in the family's
`release` step, so that releases take it along. Torch is not imported here, because every Dagster
process imports this.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .stable_diffusion import StableDiffusion, StableDiffusionXL

INDEX = "model_index.json"
# Images are judged by the evaluation's safety gate, not by a checker of the pipeline.
NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
ARCHITECTURES: dict[str, type[Architecture]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}


def architecture_of(base: Path) -> type[Architecture]:
    """The architecture of the base in a pipeline folder. KeyError when there is none."""
    index = json.loads((base / INDEX).read_text(encoding="utf-8"))
    return ARCHITECTURES[index["_class_name"]]


def load(base: Path, variant: str | None, dtype: Any) -> Architecture:
    """The base in a pipeline folder, on the CPU in the torch type `dtype`; safetensors only."""
    from diffusers import DiffusionPipeline

    be_quiet()
    index = json.loads((base / INDEX).read_text(encoding="utf-8"))
    kind = ARCHITECTURES[index["_class_name"]]
    pipe = DiffusionPipeline.from_pretrained(
        str(base),
        variant=variant,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        **{name: None for name in NEVER_LOADED if name in index},
        **kind.load_options,
    )
    pipe.set_progress_bar_config(disable=True)
    return kind(pipe)


def be_quiet() -> None:
    """Keep diffusers' and transformers' progress bars and warnings out of the logs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
