"""How files that other programs call a LoRA spell it, and what they are when they are none.

`translated` gives each key the spelling that `formats` reads; `refuse_other_kinds` says of a file
that no LoRA layer can be made of what it holds instead. Spellings, by who writes or wrote them:

    to_q_lora.down                  diffusers 0.11 to 0.20, on `attn1.processor` and `self_attn`
    down_blocks... without unet.    diffusers' `save_attn_procs`, peft's `get_peft_model_state_dict`
    base_model.model.               peft's `save_pretrained`, with adapter_config.json beside it
    lora_A.default.weight           a model's own `state_dict()` with peft layers
    lycoris_                        LyCORIS' wrapper around a UNet (SimpleTuner)
    _orig_mod., module. and others  a compiled model, or one in DDP, FSDP or checkpointing's wrapper
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.formats.base_names import TEXT_ENCODERS, Base

PEFT = "base_model.model."
# What torch and Lightning put between a model's names while it trains; no base has such a module.
WRAPPERS = "_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module"
WRAPPED = re.compile(rf"(?:(?<=\.)|^)(?:module|{WRAPPERS})\\?\.")
WRAPPED_FLAT = re.compile(
    rf"(?<=_)(?:{WRAPPERS})_|(?:(?<=^lora_unet_)|(?<=^lora_te_)|(?<=^lora_te[12]_))module_"
)
PEFT_CONFIG = "adapter_config.json"
PREFIXED = re.compile(
    r"(unet|text_encoder(_2)?|diffusion_model|text_encoders|bundle_emb)\.|lora_(unet|te)|lycoris_"
)
TEXT_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
HALF = r"_lora\.(down|up)\.weight$"
# Text that the UNet takes: what its width says of the base.
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
TEXT_KEY = re.compile(r".*attn2[._](?:processor\.)?to_[kv][._].*(?:down|lora_A)(?:\.\w+)?\.weight")
SECOND_ENCODER = ("lora_te2_", "text_encoder_2.", "text_encoders.clip_g.")
LYCORIS = "of LyCORIS; its layers are no LoRA, so train or convert it as one (LoCon)"
# Keys that no LoRA for a UNet has -> what a file with one is.
KINDS = {
    r"hada_[wt]": f"is a LoHa {LYCORIS}",
    r"\.lokr_": f"is a LoKr {LYCORIS}",
    r"\.(on_input|ia3_l)(\.\w+)?$": f"is an IA3 {LYCORIS}",
    r"\.(oft_(blocks|diag|r)|boft_\w+)(\.\w+)?$": f"is an OFT or BOFT {LYCORIS}",
    r"\.[ab][12]\.weight$": f"is a GLoRA {LYCORIS}",
    r"\.vera_lambda_|\.lora_(xs|ga)_": "is a VeRA or another variant of peft that is no plain LoRA",
    r"\.lora_mid\.": "has LoCon layers of three matrices (lora_mid, LyCORIS' use_tucker), which "
    "stock diffusers cannot load either; train it without",
    r"\.scalar$": "has scalars beside its matrices (LyCORIS' use_scalar); train it without",
    r"\.[wb]_norm$": "changes norms too (LyCORIS' train_norm); train it without",
    r"\.(diff|diff_b|set_weight)$": "holds whole differences of weights (LyCORIS' full, or an "
    "extraction), not a LoRA; extract one with a rank",
    r"lora_embedding_[AB]": "adapts the table of words, which stock diffusers does not load",
    r"(lora_[AB]|lora_(down|up)|lora\.(down|up))(\.\w+)?\.bias$": "has biases beside its matrices "
    "(peft's lora_bias), for which no adapter here has a place; train it without",
    r"^bundle_emb\.": "has textual inversion embeddings bundled with it, which an adapter here has "
    "no place for; save it without them",
    r"^(emb_params|clip_[lg]|string_to_\w+|<[^>]*>)$": "is a textual inversion embedding, not a "
    "LoRA",
    r"custom_diffusion": "is a Custom Diffusion adapter, not a LoRA",
    r"ip_adapter|^image_proj|\.to_[kv]_ip\.|\.add_[kqv]_proj": "is an IP-Adapter, not a LoRA",
    r"^(control_model\.|lora_controlnet|lllite|controlnet_|input_hint_block)|_hint_block|"
    r"\.?lllite_": "is for a ControlNet, not a LoRA",
    r"motion_module": "is for AnimateDiff's motion modules, not for images",
    r"^(transformer\.|lora_transformer_|lora_te3_|lora_unet_(double|single|joint|transformer)_"
    r"blocks|lora_unet_(blocks|layers)_|(diffusion_model\.)?(double_blocks|single_blocks|"
    r"joint_blocks|blocks|layers|(single_)?transformer_blocks)\.)": "is for a model "
    "whose denoiser is a transformer, such as Flux or Stable Diffusion 3; bases here are Stable "
    "Diffusion 1, 2 and XL",
    r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.": "is a whole "
    "checkpoint, not a LoRA; `base_model.source` of a model takes it",
    r"^(encoder|decoder)\.(conv_in|conv_out|mid|down|up)|^(post_)?quant_conv\.": "is an "
    "autoencoder, not a LoRA",
}


def unwrapped(file: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors by their names in the model itself. UserError when two have the same."""
    result: dict[str, np.ndarray] = {}
    for key, tensor in tensors.items():
        name = WRAPPED.sub("", key)
        if name.startswith("lora_"):
            name = WRAPPED_FLAT.sub("", name)
        if name in result:
            raise UserError(f"{file}: two keys for the same: {key} and another that means {name}")
        result[name] = tensor
    return result


def refuse_other_kinds(file: Path, tensors: Mapping[str, np.ndarray], base: Base) -> None:
    """UserError that says what `file` is, when it is no LoRA or one for another base."""
    for pattern, kind in KINDS.items():
        if found := [key for key in tensors if re.search(pattern, key)]:
            raise UserError(f"{file} {kind} ({found[0]})")
    if tensors and not any("." in key for key in tensors):
        raise UserError(
            f"{file} has no layers by name ({next(iter(tensors))}), so it is no LoRA; it may be a "
            "textual inversion embedding"
        )
    whole = [key for key in tensors if _is_whole(key, base)]
    if whole and len(whole) == len(tensors):
        raise UserError(f"{file} holds whole weights of a model, not a LoRA ({whole[0]})")
    takes = {w.shape[1] for name, w in base.weights.items() if name.endswith("attn2.to_k")}
    gives = {t.shape[1] for key, t in tensors.items() if TEXT_KEY.fullmatch(key) and t.ndim > 1}
    if takes and gives and not takes & gives:
        raise UserError(
            f"{file} is for another base: its UNet takes text of width {_width(gives)}, that of "
            f"{base.folder} {_width(takes)}"
        )
    second = [key for key in tensors if key.startswith(SECOND_ENCODER)]
    if second and not base.is_xl:
        raise UserError(
            f"{file} is for a base with two text encoders (Stable Diffusion XL), {base.folder} has "
            f"one ({second[0]})"
        )


def translated(
    file: Path, tensors: Mapping[str, np.ndarray], base: Base
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """({key as `formats` reads it: tensor}, {component: peft's settings}); the settings are those
    of an adapter_config.json beside a file of peft's, else empty.

    UserError when peft's file lacks them, or two keys come to mean the same.
    """
    modern = {key: _modern(key) for key in tensors}
    bare = [key for key in modern.values() if not PREFIXED.match(key)]
    component = _component(file, [key.removeprefix(PEFT) for key in bare], base) if bare else ""
    result: dict[str, np.ndarray] = {}
    by_peft: set[str] = set()
    for key, name in modern.items():
        if component and not PREFIXED.match(name):
            name = f"{component}.{name}"
        part, _, rest = name.partition(".")
        if rest.startswith(PEFT):
            by_peft.add(part)
            name = f"{part}.{rest.removeprefix(PEFT)}"
        if name in result:
            raise UserError(f"{file}: two keys for the same: {key} and another that means {name}")
        result[name] = tensors[key]
    return result, {part: _peft_settings(file) for part in sorted(by_peft)}


def _modern(key: str) -> str:
    """A key in the spelling of diffusers with peft, or of kohya; others stay."""
    if key.startswith("lycoris_"):
        return f"lora_unet_{key.removeprefix('lycoris_')}"
    key = re.sub(rf"\.processor\.to_out{HALF}", r".to_out.0.lora.\1.weight", key)
    key = re.sub(rf"\.processor\.to_([qkv]){HALF}", r".to_\1.lora.\2.weight", key)
    key = re.sub(
        rf"\.self_attn\.to_(q|k|v|out){HALF}",
        lambda found: (
            f".self_attn.{TEXT_PROJECTIONS[found[1]]}.lora_linear_layer.{found[2]}.weight"
        ),
        key,
    )
    return re.sub(r"\.(lora_[AB])\.\w+\.weight$", r".\1.weight", key)


def _component(file: Path, names: list[str], base: Base) -> str:
    """The part of the base that all of `names` belong to; "" when none takes a single one.

    Of two text encoders with the same modules the one is meant that peft's config names.
    """
    modules = {re.split(r"\.(?:lora|alpha|dora_scale)", name)[0] for name in names}
    taken = {
        component: sum(f"{component}.{name}" in base.accepted["diffusers"] for name in modules)
        for component in ("unet", *TEXT_ENCODERS)
    }
    best = [component for component, number in taken.items() if number == max(taken.values())]
    if not taken[best[0]]:
        return ""
    if len(best) > 1 and names:
        kind = (_peft_settings(file).get("auto_mapping") or {}).get("base_model_class", "")
        return best[-1] if kind.endswith("WithProjection") else best[0]
    return best[0]


def _peft_settings(file: Path) -> dict[str, Any]:
    beside = file.with_name(PEFT_CONFIG)
    try:
        settings = json.loads(beside.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"{file} was saved by peft, which says rank and alpha in {PEFT_CONFIG}; put that file "
            "beside it"
        ) from None
    except ValueError as error:
        raise UserError(f"{beside} is not valid JSON ({error}); it was saved by peft") from None
    if not isinstance(settings, dict) or settings.get("peft_type", "LORA") != "LORA":
        raise UserError(f"{beside} does not describe a LoRA of peft (peft_type: LORA)")
    return settings


def _is_whole(key: str, base: Base) -> bool:
    """Whether a key names a weight of the base itself."""
    module, _, leaf = key.rpartition(".")
    names = (module, *(f"{component}.{module}" for component in ("unet", *TEXT_ENCODERS)))
    return leaf in ("weight", "bias") and any(name in base.accepted["diffusers"] for name in names)


def _width(widths: set[int]) -> str:
    width = min(widths)
    return f"{width} ({WIDTHS[width]})" if width in WIDTHS else f"{width}"
