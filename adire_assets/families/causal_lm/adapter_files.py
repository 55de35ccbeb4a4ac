"""An adapter as files: written and checked in peft's own form, which vLLM reads as it is."""

from pathlib import Path
from typing import Any

from adire_assets.core.store import write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
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
