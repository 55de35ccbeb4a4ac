"""Writing an adapter: the stock loader gets all of it, and equal weights give equal bytes."""

import json
from pathlib import Path

from peft.utils import get_peft_model_state_dict

from adire_assets.families.diffusion.engine.architecture import Architecture
from adire_assets.families.diffusion.engine.sampling import ADAPTER_FILE
from adire_assets.families.diffusion.formats.adapter import MAGNITUDE, magnitude_name


def save_adapter(model: Architecture, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`; equal weights give equal bytes.

    The file carries the LoRA's own config: without it an alpha other than the rank would be lost on
    loading.
    """
    layers, metadata = {}, {}
    for component in model.trainable():
        part = model.component(component)
        config = getattr(part, "peft_config", {}).get("default")
        if config is None:
            continue
        # In peft's names throughout: diffusers' own names cover attention alone, and its loader
        # drops the layers whose names are of another kind than the first.
        tensors = get_peft_model_state_dict(part)
        layers[f"{component}_lora_layers"] = {
            _stored_name(component, name): tensor.detach().float().cpu().contiguous()
            for name, tensor in tensors.items()
        }
        # Neither the order of a set nor the folder of the base may reach the file's bytes.
        facts = {**config.to_dict(), "base_model_name_or_path": None}
        metadata[f"{component}_lora_adapter_metadata"] = {
            name: sorted(value) if isinstance(value, set | list) else value
            for name, value in facts.items()
        }
    type(model.pipe).save_lora_weights(str(folder), **layers, **metadata)
    _put_header_in_order(folder / ADAPTER_FILE)


def _stored_name(component: str, name: str) -> str:
    """The name under which the stock loader finds a tensor of a component."""
    if not name.endswith(f".{MAGNITUDE}"):
        return name
    module = name.removesuffix(f".{MAGNITUDE}")
    return magnitude_name(f"{component}.{module}").removeprefix(f"{component}.")


def _put_header_in_order(file: Path) -> None:
    """safetensors writes its metadata in an order that is random for each process."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(
        json.loads(content[8:start]), sort_keys=True, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the tensors to 8 bytes
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[start:])
