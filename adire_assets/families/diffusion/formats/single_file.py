"""A single .safetensors checkpoint, with the keys of the original code, becomes a diffusers folder.

`convert` runs in a worker child. diffusers' `from_single_file` does the work by the configs and
tokenizers of a pipeline of the same architecture; what this module adds is that nothing goes lost:
each tensor of the file is used, or listed in LEFT_OUT with the reason why it may stay behind, and
each weight of the model comes from the file.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers.loaders import single_file_utils
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adire_assets.core.errors import UserError
from adire_assets.core.worker import Progress
from adire_assets.families.diffusion.engine.architectures import INDEX, NEVER_LOADED, be_quiet
from adire_assets.families.diffusion.safetensors_file import problem

ARCHITECTURES = ("v1", "v2", "xl_base")  # as diffusers calls Stable Diffusion 1, 2 and XL
TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
VELOCITY = re.compile(r"v_pred|ztsnr")
# Whole names of tensors that no pipeline needs, and why.
LEFT_OUT = {
    "a running average (EMA) of other weights, kept for further training": (
        r"(first_stage_model\.)?model_ema\..+"
    ),
    "the numbers of a noise schedule, which the scheduler's config gives": (
        r"(sqrt_)?(one_minus_|recip_|recipm1_)*alphas_cumprod(_prev)?|betas|logvar|"
        r"(sqrt_|log_)one_minus_alphas_cumprod|posterior_.+|"
        r"(model\.)?(denoiser\.)?(sigmas|log_sigmas)|scale_factor"
    ),
    "the discriminator of the autoencoder's own training": r"first_stage_model\.loss\..+",
    "the positions 0, 1, 2, ... that old versions of transformers wrote": (
        r".+\.embeddings\.position_ids"
    ),
    "what CLIP needs to compare texts with images": (
        r"(cond_stage_model|conditioner\.embedders\.\d)\.(model\.|transformer\.)?"
        r"(logit_scale|attn_mask)|cond_stage_model\.(model\.|transformer\.)?text_projection"
        r"(\.weight)?|conditioner\.embedders\.0\.(transformer\.)?text_projection(\.weight)?"
    ),
    "the last layer of OpenCLIP's text encoder, which SD 2 was trained without": (
        r"cond_stage_model\.model\.transformer\.resblocks\.23\..+"
    ),
    "a mark that the model predicts velocity, which the scheduler's config says": VELOCITY.pattern,
}
SHOWN = 3  # names per sentence


def convert(*, file: str, config: str, output: str, progress: Progress) -> dict[str, Any]:
    """Write the pipeline of the checkpoint `file` into the folder `output`; returns
    {"left_out": {reason: number of tensors}}.

    `config` is a pipeline folder; only its configs and tokenizers are read. Weights keep their
    type, or become float32 where the file mixes types. UserError when the file is not readable, not
    of the config's architecture, or holds a tensor that nothing takes.
    """
    be_quiet()
    folder = Path(config)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    progress(f"reading {file}")
    header = _header(Path(file))
    # Nothing may be missing either: diffusers would take it from weights that lie in `config`.
    left_out = _account(header, folder, index, file)
    dtype = _type(header, left_out, file)
    progress(f"converting {len(header) - len(left_out)} tensors to {dtype}")
    unwanted: dict[str, Any] = {key: None for key in NEVER_LOADED if key in index}
    pipe = getattr(diffusers, index["_class_name"]).from_single_file(
        file, config=config, torch_dtype=dtype, local_files_only=True, **unwanted
    )
    if "requires_safety_checker" in index:
        pipe.register_to_config(requires_safety_checker=False)
    pipe.save_pretrained(output)
    return {"left_out": dict(sorted(Counter(left_out.values()).items()))}


def _header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{name: (type, shape)} of a safetensors file."""
    if wrong := problem(file):
        raise UserError(f"base_model.source: {file} {wrong}")
    try:
        with safe_open(file, framework="pt") as tensors:
            views = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (v.get_dtype(), tuple(v.get_shape())) for name, v in views.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"base_model.source: {file} is not a readable safetensors file ({error})"
        ) from None


def _account(
    header: dict[str, tuple[str, tuple[int, ...]]],
    folder: Path,
    index: dict[str, Any],
    file: str,
) -> dict[str, str]:
    """{tensor that stays behind: why it may}. UserError unless everything else finds its place."""
    names = list(header)
    # Every number of a tensor is the tensor's own, so that the converted weights tell where they
    # come from; expanded from one number, they take no memory.
    numbered = {
        name: torch.full((), float(place)).expand(shape)
        for place, (name, (_, shape)) in enumerate(header.items())
    }
    used: set[int] = set()
    try:
        kind = single_file_utils.infer_diffusers_model_type(numbered)
        if kind not in ARCHITECTURES:
            raise UserError(
                f"base_model.source: {file} holds a model of the kind {kind}; base models are "
                "Stable Diffusion 1, 2 and XL, for text alone"
            )
        for component, weights in _converted(numbered, folder, index):
            missing = sorted(key for key, weight in weights.items() if weight is None)
            if missing:
                raise ValueError(f"nothing in the file fills the {component}'s {_some(missing)}")
            used |= {int(weight.flatten()[0]) for weight in weights.values() if weight is not None}
    except (KeyError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"base_model: {file} is not of the architecture that base_model.config ({folder}) "
            f"describes: {reason.split('. If you want')[0]}; name the config of its own "
            "architecture, or a whole checkpoint with UNet, text encoder and autoencoder"
        ) from None
    unused = [name for place, name in enumerate(names) if place not in used]
    reasons = {name: _reason(name) for name in unused}
    strangers = [name for name, reason in reasons.items() if reason is None]
    if strangers:
        raise UserError(
            f"base_model.source: {file} holds {len(strangers)} tensors that no part of a "
            f"{index['_class_name']} takes: {_some(strangers)}; the model would not be what its "
            "author made, so remove them from the file if they are known to be of no use"
        )
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    marks = [name for name in unused if VELOCITY.fullmatch(name)]
    if marks and schedule.get("prediction_type") != "v_prediction":
        raise UserError(
            f"base_model: {file} says by its tensor {marks[0]} that it predicts velocity, but the "
            f"scheduler of base_model.config ({folder}) has prediction_type "
            f"{schedule.get('prediction_type', 'epsilon')}; use a copy of that config with "
            "prediction_type v_prediction in scheduler/scheduler_config.json"
            + (" and rescale_betas_zero_snr true" if "ztsnr" in marks else "")
        )
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _converted(
    checkpoint: dict[str, Tensor], folder: Path, index: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Tensor | None]]]:
    """For each part of the pipeline: its name, and {weight: its tensor, or None if there is none}.

    ValueError or KeyError when the checkpoint does not fit the configs.
    """
    conversions = {
        "unet": single_file_utils.convert_ldm_unet_checkpoint,
        "vae": single_file_utils.convert_ldm_vae_checkpoint,
    }
    for component, convert_part in conversions.items():
        part = getattr(diffusers, index[component][1])
        settings = part.load_config(str(folder), subfolder=component)
        with init_empty_weights():
            expected = part.from_config(settings).state_dict()
        found = convert_part(checkpoint, config=settings)
        for name, tensor in expected.items():
            if name in found and found[name].shape != tensor.shape:
                raise ValueError(
                    f"{component} {name} has the shape {tuple(found[name].shape)}, expected "
                    f"{tuple(tensor.shape)}"
                )
        yield component, {name: found.get(name) for name in expected}
    for component in ("text_encoder", "text_encoder_2"):
        if component not in index:
            continue
        model = single_file_utils.create_diffusers_clip_model_from_ldm(
            getattr(transformers, index[component][1]),
            checkpoint,
            config=str(folder),
            subfolder=component,
            local_files_only=True,
        )
        weights = model.state_dict().items()
        yield component, {name: None if w.is_meta else w for name, w in weights}


def _type(
    header: dict[str, tuple[str, tuple[int, ...]]], left_out: dict[str, str], file: str
) -> torch.dtype:
    """The type that holds every used tensor without loss."""
    found = {kind for name, (kind, _) in header.items() if name not in left_out}
    if strange := sorted(found - set(TYPES)):
        raise UserError(
            f"base_model.source: {file} holds weights of type {', '.join(strange)}; use a version "
            "of the model in float16, bfloat16 or float32"
        )
    return TYPES[found.pop()] if len(found) == 1 else torch.float32


def _reason(name: str) -> str | None:
    return next((why for why, pattern in LEFT_OUT.items() if re.fullmatch(pattern, name)), None)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
