"""Is an adapter's file sound: safetensors only, made for this base, finite, not empty of effect.

Reads headers and numbers with numpy; torch is not imported and nothing is unpickled.
"""

import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from adire_assets.core.file_names import suffix_of
from adire_assets.families.diffusion.engine.architectures import architecture_of
from adire_assets.families.diffusion.safetensors_file import problem, some, stored

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
ALLOWED_SUFFIXES = (".safetensors", ".json", ".csv", ".png", ".md", ".txt", ".py")
# The two matrices of a LoRA, by the names that diffusers and peft give them.
NAMES = (
    ("lora.down", "lora.up"),
    ("lora_linear_layer.down", "lora_linear_layer.up"),
    ("lora_A", "lora_B"),
)
KEY = re.compile(r"(.+)\.(" + "|".join(re.escape(n) for pair in NAMES for n in pair) + r")\.weight")
MAGNITUDE = "lora_magnitude_vector"  # of DoRA, with lora_A and lora_B
MAGNITUDE_KEY = re.compile(rf"(.+)\.{MAGNITUDE}(?:\.weight)?")
OTHER = {**dict(NAMES), **{up: down for down, up in NAMES}}
UP = {up for _, up in NAMES}


def inspect_adapter(adapter_folder: Path, base_folder: Path) -> list[str]:
    """What is wrong with `pytorch_lora_weights.safetensors` in `adapter_folder`; empty means sound.

    Every tensor must belong to a weight of the base's denoiser or text encoders, with the shapes of
    a LoRA on it (down: [rank, in, ...], up: [out, rank, ...]), in pairs, each perhaps with a DoRA's
    magnitudes; all numbers finite; and some layer with both matrices not zero: a LoRA starts with
    zeros in one, and changes nothing while it keeps them. The folder may hold no file that could be
    weights in another format.
    """
    problems = []
    strangers = sorted(
        path.relative_to(adapter_folder).as_posix()
        for path in adapter_folder.rglob("*")
        if path.is_file() and suffix_of(path.name) not in ALLOWED_SUFFIXES
    )
    if strangers:
        problems.append(f"files that are not safetensors, text or images: {some(strangers)}")
    file = adapter_folder / ADAPTER_FILE
    if not file.is_file():
        return [*problems, f"{ADAPTER_FILE} is missing"]
    if wrong := problem(file):
        return [*problems, f"{ADAPTER_FILE} {wrong}"]
    try:
        with safe_open(file, framework="numpy") as tensors:
            return problems + _tensor_problems(tensors, _base_shapes(base_folder))
    except (SafetensorError, OSError) as error:
        return [*problems, f"{ADAPTER_FILE} is not a readable safetensors file ({error})"]


def magnitude_name(module: str) -> str:
    """The key of a DoRA's magnitudes, of which peft writes the short one.

    Text encoders are loaded by transformers, which silently passes over the short one (5.23).
    """
    return f"{module}.{MAGNITUDE}{'.weight' if module.startswith('text_encoder') else ''}"


def magnitude_shape(weight: tuple[int, ...]) -> tuple[int, ...]:
    """How peft shapes a DoRA's magnitudes on a weight: [out], on a convolution [1, out, 1, 1]."""
    return weight[:1] if len(weight) == 2 else (1, weight[0], *[1] * (len(weight) - 2))


def _tensor_problems(tensors: safe_open, base: dict[str, tuple[int, ...]]) -> list[str]:
    keys = sorted(tensors.keys())
    if not keys:
        return [f"{ADAPTER_FILE} holds no tensors"]
    present = set(keys)
    unknown, unpaired, misshapen, not_floats, not_finite, left_out = [], [], [], [], [], []
    namings: dict[str, set[frozenset[str]]] = {}
    pairs: set[tuple[str, str]] = set()  # up and down
    zero: set[str] = set()
    for key in keys:
        match = KEY.fullmatch(key) or MAGNITUDE_KEY.fullmatch(key)
        weight = base.get(match[1]) if match else None
        if match is None or weight is None:
            unknown.append(key)
            continue
        view = tensors.get_slice(key)
        shape = tuple(view.get_shape())
        half = match[2] if match.re is KEY else None
        up = half in UP
        other = f"{match[1]}.{OTHER[half] if half else 'lora_A'}.weight"
        if other not in present:
            unpaired.append(key)
        if up:
            pairs.add((key, other))
        if half:
            naming = frozenset((half, OTHER[half]))
            namings.setdefault(key.partition(".")[0], set()).add(naming)
            rank = _rank(tensors, key, up)
            expected = (weight[0], rank) if up else (rank, *weight[1:])
            expected += (1,) * (len(weight) - len(expected))
            fits = rank > 0 and (other not in present or rank == _rank(tensors, other, not up))
        else:
            expected, fits = magnitude_shape(weight), True
            if key.endswith(MAGNITUDE) and key != magnitude_name(match[1]):
                left_out.append(key)
        if shape != expected or not fits:
            misshapen.append(f"{key} {list(shape)} on a weight of {list(weight)}")
        if view.get_dtype() not in ("F16", "F32", "F64"):
            not_floats.append(f"{key} {view.get_dtype()}")
            continue
        values = tensors.get_tensor(key)
        if not np.isfinite(values).all():
            not_finite.append(key)
        if half and not values.any():
            zero.add(key)
    found = {
        "tensors that no module of the base takes": unknown,
        "half a LoRA, the other matrix is missing": unpaired,
        "shapes that do not fit the base": misshapen,
        "types other than float16, float32 and float64": not_floats,
        "values that are NaN or infinite": not_finite,
        "magnitudes that the stock loader leaves out unless .weight ends their names": left_out,
    }
    problems = [f"{what}: {some(names)}" for what, names in found.items() if names]
    problems += [
        f"the {component} mixes names such as {some(sorted(min(pair) for pair in used))}; the "
        "stock loader reads only one kind and drops the rest"
        for component, used in sorted(namings.items())
        if len(used) > 1
    ]
    if pairs <= {(up, down) for up, down in pairs if zero & {up, down}}:
        problems.append("in every layer a matrix is zero, so the adapter changes nothing")
    return problems


def _rank(tensors: safe_open, key: str, up: bool) -> int:
    """The rank of one half of a LoRA: the columns of the up half, the rows of the down one."""
    shape = tuple(tensors.get_slice(key).get_shape())
    return shape[up] if len(shape) > up else 0


def _base_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """{component.module: shape of its weight} from the headers of the base's safetensors files."""
    shapes = {}
    for component in architecture_of(base).trainable():
        for name, tensor in stored(base / component).items():
            module, _, leaf = name.rpartition(".")
            if leaf == "weight" and len(tensor.shape) > 1:
                shapes[f"{component}.{module}"] = tensor.shape
                # Text encoders come with and without this prefix, and diffusers maps both.
                shapes[f"{component}.{module.removeprefix('text_model.')}"] = tensor.shape
                shapes[f"{component}.text_model.{module.removeprefix('text_model.')}"] = (
                    tensor.shape
                )
    return shapes
