"""What an evaluation has drawn: the part of its settings that images depend on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adire_assets.families.diffusion.evaluation.prompts import choose_prompts, read_rows

AS_SERVED = ("scheduler", "quantization")  # keys of `serving`, there where they are set
# What the time of an image depends on.
TIMED_BY = ("num_inference_steps", "guidance_scale", *AS_SERVED)
SETTINGS = ("seeds", "negative_prompt", "num_inference_steps", "guidance_scale", "latency_images")


def drawing_of(evaluation: Mapping[str, Any], dataset: Path) -> dict[str, Any]:
    """What evaluation settings have drawn; the prompts are a dataset's where they name none.

    `latency_images` counts, since it says which images share a forward pass. Of how releases draw,
    what is not the default.
    """
    captions = [row["text"] for row in read_rows(dataset, "held_out")]
    prompts, _ = choose_prompts(evaluation, captions)
    asked = {name: evaluation[name] for name in (*SETTINGS, *AS_SERVED) if name in evaluation}
    return {"prompts": prompts, **asked}
