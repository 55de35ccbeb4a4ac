"""An adapter as files: written and checked in peft's own form, which vLLM reads as it is."""

from pathlib import Path
from typing import Any

from adire_assets.core.store import read_json, write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
UNSERVED: dict[str, tuple] = {  # key of the config -> what vLLM serves
    "use_dora": (False,),
    "bias": ("none",),
    "modules_to_save": ([],),
}
PREFIX = "base_model.model."  # of every key, as peft's PeftModel has it


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter of a transformers model; equal weights give equal bytes."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    [(name, config)] = model.peft_config.items()
    tensors = {
        f"{PREFIX}{key}": tensor.detach().float().cpu().contiguous()
        for key, tensor in get_peft_model_state_dict(model, adapter_name=name).items()
    }
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS, {"format": "pt"})
    said = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    # The folder that the base lay in means nothing elsewhere; the manifest names the base.
    said |= {"base_model_name_or_path": None, "inference_mode": True, "task_type": "CAUSAL_LM"}
    write_json(folder / CONFIG, said)


def problems_of(folder: Path, base: Path) -> list[str]:
    """Why an adapter is not sound on this base, or would not be served: sentences; [] if it is.

    A server takes weights under names that it does not know without a word and answers as the base
    does, so every name must be that of a layer.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    if missing := [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]:
        return [f"the adapter has no {missing[0]}"]
    config = read_json(folder / CONFIG)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    shapes = {f"{PREFIX}{name}": layer for name, layer in model.named_modules()}
    found = [
        f"{key} is {config[key]!r}, which vLLM does not serve"
        for key, served in UNSERVED.items()
        if config.get(key) not in (*served, None)
    ]
    tensors = load_file(folder / WEIGHTS)
    if not tensors:
        found.append("the adapter has no weights")
    for name, tensor in tensors.items():
        layer, _, side = name.removesuffix(".weight").rpartition(".")
        weight = getattr(shapes.get(layer), "weight", None)
        if weight is None or side not in ("lora_A", "lora_B"):
            found.append(f"{name} belongs to no layer of the base")
        elif tensor.shape[side == "lora_A"] != weight.shape[side == "lora_A"]:
            found.append(f"{name} is {tuple(tensor.shape)}, its layer {tuple(weight.shape)}")
        elif not tensor.isfinite().all():
            found.append(f"{name} holds values that are not finite")
    if not found and not any(t.any() for name, t in tensors.items() if ".lora_B" in name):
        found.append("every lora_B is zero: the adapter changes nothing")
    return found
