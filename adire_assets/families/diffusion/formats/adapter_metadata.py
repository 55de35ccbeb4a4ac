"""A LoRA's layers, and what a file's metadata says of them: peft's settings, kohya's facts.

diffusers gives each module rank and alpha from peft's settings, which it keeps as JSON in the
metadata. Without settings, and in kohya's files without alpha, a layer's alpha is its rank.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.formats.base_names import Base, text_name
from adire_assets.families.diffusion.formats.dialects import WRAPPED
from adire_assets.families.diffusion.safetensors_file import some

CONFIG = "lora_adapter_metadata"  # the metadata in which diffusers keeps peft's settings
PEFT_DEFAULT = 8  # rank and alpha of a LoraConfig that names none
# Width of the text that the UNet takes -> what kohya's scripts call the base.
BASE_VERSIONS = {768: "sd_v1", 1024: "sd_v2", 2048: "sdxl_base_v1-0"}


@dataclass(frozen=True)
class Layer:
    """The LoRA of one module. down: [rank, in, ...], up: [out, rank, ...], magnitude: [out]."""

    down: np.ndarray
    up: np.ndarray
    alpha: float
    magnitude: np.ndarray | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


Layers = dict[str, Layer]  # by module, see base_names


def read_settings(file: Path, text: str | None) -> dict[str, dict[str, Any]]:
    """{component: peft's settings} from the file's metadata; empty when it has none."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for key, value in json.loads(text or "{}").items():
            component, _, name = key.partition(".")
            found.setdefault(component, {})[name] = value
    except (ValueError, AttributeError):
        raise UserError(f"{file}: the metadata {CONFIG} is not a JSON object") from None
    return found


def alpha_of(file: Path, settings: Mapping[str, Any], name: str, rank: int) -> float:
    """The alpha that scales this module by alpha / rank, as peft's settings say."""
    try:
        said = _by_pattern(settings, "rank_pattern", name, settings.get("r", PEFT_DEFAULT))
        alpha = _by_pattern(
            settings, "alpha_pattern", name, settings.get("lora_alpha", PEFT_DEFAULT)
        )
        scaled = float(alpha) * (math.sqrt(rank) if settings.get("use_rslora") else 1)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise UserError(f"{file}: the metadata {CONFIG} is malformed: {error}") from None
    if said != rank:
        raise UserError(f"{file}: its metadata gives {name} the rank {said}, its tensors {rank}")
    return scaled


def _by_pattern(settings: Mapping[str, Any], key: str, name: str, otherwise: Any) -> Any:
    """peft's rule: the first pattern that the name, or its end after a dot, matches."""
    for wrapped, value in (settings.get(key) or {}).items():
        pattern = WRAPPED.sub("", wrapped)
        short = name.removeprefix("text_model.")
        if any(re.match(rf"(.*\.)?({pattern})$", one) for one in (name, short, text_name(name))):
            return value
    return otherwise


def settings_of(layers: Layers) -> dict[str, str]:
    """The metadata from which stock diffusers gives each module its rank and alpha."""
    settings: dict[str, Any] = {}
    for component in sorted({module.partition(".")[0] for module in layers}):
        # Without `text_model.` an ending fits the text encoders of every version.
        own = {
            module.removeprefix(f"{component}.").removeprefix("text_model."): layer
            for module, layer in layers.items()
            if module.startswith(f"{component}.")
        }
        alphas = {name: _whole(layer.alpha) for name, layer in own.items()}
        ranks = {name: layer.rank for name, layer in own.items()}
        rank, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, alphas))
        found = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
            "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
            "target_modules": sorted(own),
            "use_dora": any(layer.magnitude is not None for layer in own.values()),
            "use_rslora": False,
        }
        settings |= {f"{component}.{name}": value for name, value in found.items()}
    return {CONFIG: json.dumps(settings, indent=2, sort_keys=True)}


def kohya_facts(base: Base, layers: Layers) -> dict[str, str]:
    """What kohya's scripts write about rank, alpha and base, and others read."""
    ranks = {f"{layer.rank}" for layer in layers.values()}
    alphas = {f"{layer.alpha:.7g}" for layer in layers.values()}
    dora = any(layer.magnitude is not None for layer in layers.values())
    facts = {
        "ss_network_module": "lycoris.kohya" if dora else "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
    }
    version = BASE_VERSIONS.get(base.config.get("cross_attention_dim", 0))
    if version and base.is_xl == version.startswith("sdxl"):
        facts |= {"ss_base_model_version": version, "ss_v2": str(version == "sd_v2")}
    return facts


def check_dora(file: Path, layers: Layers, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """peft has one switch for all modules of a component."""
    for component in sorted({module.partition(".")[0] for module in layers}):
        has = {
            module: layer.magnitude is not None
            for module, layer in layers.items()
            if module.startswith(f"{component}.")
        }
        without = [module for module, there in has.items() if not there]
        said = settings.get(component, {}).get("use_dora", any(has.values()))
        if (any(has.values()) and without) or bool(said) != any(has.values()):
            raise UserError(
                f"{file}: DoRA is for all modules of the {component} or for none; it lacks "
                f"magnitudes (or the setting use_dora) for {some(without or list(has))}"
            )


def _whole(number: float) -> float | int:
    return int(number) if number.is_integer() else number
