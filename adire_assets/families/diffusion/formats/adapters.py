"""LoRA adapters in the formats of diffusers, kohya's sd-scripts and ComfyUI, exact both ways.

`export` writes an adapter for another program, `import_` makes an adapter's folder of a file from
one. What a layer means is the same everywhere: its weight becomes W + alpha / rank * up @ down;
with a DoRA's magnitudes m, one per output channel, each row of that is then given the length m.
The formats say it differently:

    diffusers  lora_A, lora_B, lora_magnitude_vector; alpha and scaling in the file's metadata
    kohya      lora_down, lora_up, alpha, dora_scale (m, as LyCORIS has it)
    comfyui    the same, but its loader divides by the length of W alone, so that dora_scale is
               m * |W| / |W + alpha / rank * up @ down|

Every tensor is accounted for: one that no module of the base takes, half a pair, or a module that
the format cannot name is a UserError with up to three names. rsLoRA's alpha / sqrt(rank) becomes
the alpha that gives the same. bfloat16 becomes float32; no other weight is touched.
"""

import errno
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adire_assets.core.disk import written_whole
from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.formats.adapter import (
    ADAPTER_FILE,
    MAGNITUDE,
    inspect_adapter,
    magnitude_name,
    magnitude_shape,
)
from adire_assets.families.diffusion.formats.adapter_metadata import (
    CONFIG,
    Layer,
    Layers,
    alpha_of,
    check_dora,
    kohya_facts,
    read_settings,
    settings_of,
)
from adire_assets.families.diffusion.formats.base_names import Base, Format, read_base
from adire_assets.families.diffusion.formats.dialects import (
    refuse_other_kinds,
    translated,
    unwrapped,
)
from adire_assets.families.diffusion.safetensors_file import SUFFIX, load, save, some

PREFIXES: dict[str, Format] = {
    "lora_unet_": "kohya",
    "lora_te": "kohya",
    "diffusion_model.": "comfyui",
    "text_encoders.": "comfyui",
    "unet.": "diffusers",
    "text_encoder.": "diffusers",
    "text_encoder_2.": "diffusers",
}
PARTS = {
    **dict.fromkeys(("lora_A", "lora_down", "lora.down", "lora_linear_layer.down"), "down"),
    **dict.fromkeys(("lora_B", "lora_up", "lora.up", "lora_linear_layer.up"), "up"),
    "alpha": "alpha",
    "dora_scale": "magnitude",
    MAGNITUDE: "magnitude",
}
HALVES = "|".join(re.escape(name) for name, part in PARTS.items() if part in ("down", "up"))
KEY = re.compile(rf"(.+?)\.(?:({HALVES})\.weight|(alpha|dora_scale)|({MAGNITUDE})(?:\.weight)?)")


def export(
    adapter_folder: Path,
    base_folder: Path,
    to: Format,
    file: Path,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the adapter of a folder for another program; `facts` go into the file's metadata.

    UserError when the adapter does not fit the base, or `to` cannot say all of it.
    """
    if file.suffix != SUFFIX:
        raise UserError(f"{file}: name a file that ends in {SUFFIX}; adapters are exported as such")
    if problems := inspect_adapter(adapter_folder, base_folder):
        raise UserError(f"{adapter_folder} does not fit {base_folder}: {'; '.join(problems)}")
    base = read_base(base_folder)
    layers, metadata, _ = _read(adapter_folder / ADAPTER_FILE, base)
    _write(file, base, layers, to, {**metadata, **(facts or {})})


def import_(file: Path, base_folder: Path, adapter_folder: Path) -> Format:
    """Make `adapter_folder`, in diffusers' format, of a file in any of the formats; which it was.

    UserError, and no folder, when the file is no safetensors file, is not for this base, holds
    what peft's LoRA cannot be, or the adapter is not sound (`inspect_adapter`).
    """
    if adapter_folder.exists():
        raise UserError(f"{adapter_folder} exists already; name a new folder")
    base = read_base(base_folder)
    layers, metadata, found = _read(file, base)
    try:
        with written_whole(adapter_folder) as temporary:
            _write(temporary / ADAPTER_FILE, base, layers, "diffusers", metadata)
            if problems := inspect_adapter(temporary, base_folder):
                raise UserError(f"{file} is not a sound adapter: {'; '.join(problems)}")
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise UserError(
                f"{adapter_folder} has come into being meanwhile; name a new folder"
            ) from None
        raise
    return found


def _read(file: Path, base: Base) -> tuple[Layers, dict[str, str], Format]:
    """(layers, metadata without peft's settings, format) of an adapter's file."""
    tensors, metadata = load(file)
    tensors = unwrapped(file, tensors)
    refuse_other_kinds(file, tensors, base)
    tensors, by_peft = translated(file, tensors, base)
    found = _format_of(file, tensors)
    settings_text = metadata.pop(CONFIG, None)
    settings = read_settings(file, settings_text) if found == "diffusers" else {}
    settings |= by_peft
    layers: Layers = {}
    misshapen: list[str] = []
    without_alpha: list[str] = []
    for module, keys in sorted(_by_module(file, base, found, tensors).items()):
        weight = base.weights[module].shape
        parts = {part: tensors[key] for part, key in keys.items()}
        fitted = _fitted(parts, weight, found)
        wrong = [keys[part] for part in parts if fitted.get(part) is None]
        if wrong:
            shapes = (f"{key} {list(tensors[key].shape)}" for key in wrong)
            misshapen += [f"{shape} on a weight of {list(weight)}" for shape in shapes]
            continue
        component, _, name = module.partition(".")
        rank = len(fitted["down"])
        if "alpha" in fitted:
            alpha = float(fitted["alpha"])
        elif component in settings:
            alpha = alpha_of(file, settings[component], name, rank)
        else:
            alpha = float(rank)
        if not math.isfinite(alpha):
            raise UserError(f"{file}: the alpha of {module} is {alpha}; it must be a number")
        if alpha == 0:
            without_alpha.append(module)
        layer = Layer(fitted["down"], fitted["up"], alpha, fitted.get("magnitude"))
        if found == "comfyui" and layer.magnitude is not None:
            length = layer.magnitude * _lengths_changed(base, module, layer)
            layer = replace(layer, magnitude=length)
        layers[module] = layer
    _refuse(f"{file} does not fit {base.folder}", {"shapes that do not fit the base": misshapen})
    if without_alpha:
        raise UserError(
            f"{file}: the alpha of {some(without_alpha)} is 0, by which such a layer changes "
            "nothing; some programs take it for the rank, so save the file with the alpha it "
            "was trained with"
        )
    check_dora(file, layers, settings)
    return layers, metadata, found


def _fitted(
    parts: Mapping[str, np.ndarray], weight: tuple[int, ...], found: Format
) -> dict[str, Any]:
    """The parts in the shapes of a `Layer` on a weight, None for one that cannot be that."""
    rank = len(parts["down"]) if parts["down"].ndim > 1 else 0
    ones = (1,) * (len(weight) - 2)
    shapes: dict[str, tuple[int, ...]] = {
        "down": (rank, *weight[1:]),
        "up": (weight[0], rank, *ones),
        "alpha": (),
        # Over the output channels; LyCORIS also has DoRA over the input's, [1, in], peft has not.
        "magnitude": magnitude_shape(weight) if found == "diffusers" else weight[:1],
    }
    fitted = {part: _fit(tensor, shapes[part]) for part, tensor in parts.items()}
    if (magnitude := fitted.get("magnitude")) is not None:
        fitted["magnitude"] = magnitude.reshape(-1)
    return fitted


def _write(file: Path, base: Base, layers: Layers, to: Format, metadata: Mapping[str, str]) -> None:
    names = base.names[to]
    _refuse(
        f"{base.folder} is not a base that {to} knows whole, export to another format",
        {"it has no names for": [module for module in layers if module not in names]},
    )
    tensors: dict[str, np.ndarray] = {}
    for module, layer in layers.items():
        name, weight = names[module], base.weights[module].shape
        down, up = ("lora_A", "lora_B") if to == "diffusers" else ("lora_down", "lora_up")
        tensors[f"{name}.{down}.weight"], tensors[f"{name}.{up}.weight"] = layer.down, layer.up
        scale = layer.magnitude
        if to == "diffusers":
            if scale is not None:
                tensors[magnitude_name(name)] = scale.reshape(magnitude_shape(weight))
            continue
        tensors[f"{name}.alpha"] = np.array(layer.alpha, np.float32)
        if scale is not None and to == "comfyui":
            scale = scale / _lengths_changed(base, module, layer)
        if scale is not None:
            tensors[f"{name}.dora_scale"] = scale.reshape(-1, *[1] * (len(weight) - 1))
    facts = settings_of(layers) if to == "diffusers" else kohya_facts(base, layers)
    save(file, tensors, {**metadata, **facts})


def _format_of(file: Path, tensors: Mapping[str, np.ndarray]) -> Format:
    kinds: dict[Format, str] = {}
    strangers = []
    for key in tensors:
        kind = next((PREFIXES[start] for start in PREFIXES if key.startswith(start)), None)
        if kind is None:
            strangers.append(key)
        else:
            kinds.setdefault(kind, key)
    where = f"{file} is not an adapter for Stable Diffusion 1, 2 or XL in a format that is known"
    _refuse(where, {"it has keys that none has": strangers})
    if len(kinds) != 1:
        mixed = ", ".join(f"{key} ({kind})" for kind, key in sorted(kinds.items()))
        raise UserError(f"{file} {'mixes formats: ' + mixed if kinds else 'holds no tensors'}")
    return next(iter(kinds))


def _by_module(
    file: Path, base: Base, found: Format, tensors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, str]]:
    """{module: {part: key}} with both halves for each; UserError when a key has no place there."""
    parts: dict[str, dict[str, str]] = {}
    no_lora, unknown, twice, whole = [], [], [], []
    for key in sorted(tensors):
        match = KEY.fullmatch(key)
        if match is None:
            no_lora.append(key)
            continue
        # diffusers' own converter to kohya's names leaves dots in those of DoRA's magnitudes.
        name = match[1].replace(".", "_") if found == "kohya" else match[1]
        module = base.accepted[found].get(name)
        if match[3] != "alpha" and tensors[key].dtype.kind != "f":
            whole.append(f"{key} {tensors[key].dtype}")
        if module is None:
            unknown.append(key)
        elif (
            parts.setdefault(module, {}).setdefault(PARTS[match[2] or match[3] or match[4]], key)
            != key
        ):
            twice.append(key)
    halves = [
        next(iter(keys.values())) for keys in parts.values() if not {"down", "up"} <= set(keys)
    ]
    _refuse(
        f"{file} is not a LoRA that is understood",
        {
            "tensors that are no part of one": no_lora,
            "types other than float64, float32, float16 and bfloat16": whole,
        },
    )
    _refuse(
        f"{file} does not fit {base.folder}",
        {
            "keys that no module of the base takes": unknown,
            "two keys for the same": twice,
            "half a LoRA, the other matrix is missing": halves,
        },
    )
    return parts


def _fit(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The tensor in `shape`, None when it is another; ones at the end do not count, for some
    programs write a 1 x 1 convolution as a matrix and others a matrix as a convolution."""

    def significant(sizes: tuple[int, ...]) -> tuple[int, ...]:
        while sizes and sizes[-1] == 1:
            sizes = sizes[:-1]
        return sizes

    same = significant(tensor.shape) == significant(shape)
    return tensor.reshape(shape) if same else None


def _lengths_changed(base: Base, module: str, layer: Layer) -> np.ndarray:
    """[out] float32: how much longer the rows of the module's weight are with the layer."""
    weight = base.weights[module].read().astype(np.float64)
    weight = weight.reshape(len(weight), -1)
    up = layer.up.astype(np.float64).reshape(len(weight), -1)
    down = layer.down.astype(np.float64).reshape(layer.rank, -1)
    changed = weight + layer.alpha / layer.rank * up @ down
    before, after = (np.linalg.norm(rows, axis=1) for rows in (weight, changed))
    if not (before.all() and after.all()):
        raise UserError(
            f"{module} has rows of zeros in {base.folder}, to which ComfyUI's DoRA gives no length"
        )
    return (after / before).astype(np.float32)


def _refuse(where: str, problems: Mapping[str, list[str]]) -> None:
    """UserError when there is a problem, with the first names of each."""
    found = [f"{what}: {some(names)}" for what, names in problems.items() if names]
    if found:
        raise UserError(f"{where}: {'; '.join(found)}")
