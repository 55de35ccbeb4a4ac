"""The golden images of the embedded base, which tell whether an upgrade changed what it draws."""

import shutil
from pathlib import Path

from adire_assets.core import lineage
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.evaluation import golden

VARIANT = "fp16"
THREADS = 2
PROMPTS = (
    "red waves on orange",
    "grid of nine squares with white leaves, suns and rings on green",
)


def write_golden(pipeline: Path, folder: Path) -> None:
    """The golden set of the bare embedded base, drawn on the CPU, in place of what `folder` is."""
    environment = lineage.environment(*FAMILY.packages, device="cpu")
    made_with = golden.conditions(environment, lineage.hardware(), THREADS)
    requests = [
        {
            "prompt": prompt,
            "negative_prompt": "",
            "seed": seed,
            "num_inference_steps": 10,
            "guidance_scale": 2.0,
        }
        for prompt in PROMPTS
        for seed in (0, 1)
    ]
    images = golden.draw(requests, golden.SAMPLING, pipeline, VARIANT, None, "cpu", THREADS)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    golden.write(folder, requests, images, made_with)
