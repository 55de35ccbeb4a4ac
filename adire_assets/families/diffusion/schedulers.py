"""The schedulers that images may be drawn with in place of their base's own, and on which bases.

They go by the names of diffusers' classes, and take over the noise schedule of the base and what
its denoiser predicts (`from_config`). So they must know both. Diffusers is not imported here,
because every Dagster process asks.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from adire_assets.families.diffusion.engine.architecture import PREDICTION_TYPES

LCM = "LCMScheduler"  # of latent consistency models (Luo et al. 2023)
LCM_STEPS = 50  # its most, where the base's scheduler config says nothing else
# Those that can begin in pure noise (Lin et al. 2024), as some noise schedules do.
ZERO_SNR = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    LCM,
    "UniPCMultistepScheduler",
)
SCHEDULERS = (
    *ZERO_SNR,
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
)


def _known(name: str) -> str:
    """`name`, or a ValueError that lists what there is."""
    if name not in SCHEDULERS:
        raise ValueError(
            f"there is no scheduler {name}; by the names of diffusers' classes there is "
            f"{', '.join(sorted(SCHEDULERS))}"
        )
    return name


Scheduler = Annotated[str, AfterValidator(_known)]


def refusal(base: Path, scheduler: str | None, steps: int) -> str | None:
    """Why the base in a pipeline folder is not drawn by a scheduler in up to so many steps, None if
    it is. It always is by its own, `scheduler` None."""
    if scheduler is None:
        return None
    own = _config(base / "scheduler" / "scheduler_config.json")
    kind = own.get("_class_name", "")
    predicted = "flow" if "FlowMatch" in kind else own.get("prediction_type", PREDICTION_TYPES[0])
    if predicted not in PREDICTION_TYPES:
        return (
            f"{scheduler} is for bases that predict {' or '.join(PREDICTION_TYPES)}, and this one "
            f"predicts {predicted}; leave it out, and the base is drawn by its own {kind}"
        )
    if own.get("rescale_betas_zero_snr") and scheduler not in ZERO_SNR:
        return (
            f"{scheduler} cannot begin in pure noise, as the base's rescale_betas_zero_snr asks; "
            f"those that can are {', '.join(ZERO_SNR)}"
        )
    if scheduler != LCM:
        return None
    parts = [_config(path) for path in sorted(base.glob("*/config.json"))]
    if kind != LCM and not any(part.get("time_cond_proj_dim") for part in parts):
        return (
            f"{LCM} is for latent consistency models, and this base is none: its own scheduler is "
            f"{kind}, and its denoiser has no time_cond_proj_dim; take another scheduler"
        )
    most = own.get("original_inference_steps", LCM_STEPS)
    if steps > most:
        return f"{LCM} draws this base in at most {most} steps, and {steps} are allowed; lower that"
    return None


def _config(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
