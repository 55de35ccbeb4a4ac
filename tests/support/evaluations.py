"""Small evaluations of a random base, and the estimate of KID summed as its paper says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from adire_assets.config.weights import ModelSource
from adire_assets.families.diffusion.config import EvaluationConfig
from adire_assets.families.diffusion.evaluation import evaluate as module
from adire_assets.families.diffusion.evaluation.drawing import drawing_of
from adire_assets.families.diffusion.evaluation.images import draw


def write_adapter(folder: Path, base: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A rank-2 LoRA on the base's attention queries whose B matrices went through `change`."""
    rng = np.random.default_rng(5)
    tensors = {}
    with safe_open(base / "unet" / "diffusion_pytorch_model.safetensors", "numpy") as weights:
        for key in weights.keys():  # noqa: SIM118
            if key.endswith(("to_q.weight", "to_v.weight")):
                out, width = weights.get_slice(key).get_shape()
                name = f"unet.{key.removesuffix('.weight')}"
                a, b = rng.standard_normal((2, width)), rng.standard_normal((out, 2))
                tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
                tensors[f"{name}.lora_B.weight"] = change(b.astype(np.float32))
    folder.mkdir()
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


def settings(**changes: Any) -> dict[str, Any]:
    config = EvaluationConfig(
        judge=ModelSource(source="base_models/tiny/judge"),
        num_inference_steps=2,
        guidance_scale=3.0,
        latency_images=3,
    )
    return {**config.model_dump(mode="json", exclude={"gates"}), **changes}


def run(parts: dict[str, Path], adapter: str, output: Path, **changes: Any) -> dict[str, Any]:
    """Draw with the LoRA and without beside `output`, and score."""
    evaluation = settings(**changes)
    drawing = drawing_of(evaluation, parts["dataset"])
    drawn = {}
    for name, lora in (("adapter_images", str(parts[adapter])), ("base_images", None)):
        drawn[name] = output.with_name(f"{output.name}-{name}")
        drawn[name].mkdir()
        draw(
            base=str(parts["base"]),
            variant=None,
            adapter=lora,
            drawing=drawing,
            output=str(drawn[name]),
            device="cpu",
            progress=quiet,
        )
    output.mkdir(exist_ok=True)
    return score(parts, drawn, output, evaluation)


def score(
    parts: dict[str, Path],
    drawn: dict[str, Path],
    output: Path,
    evaluation: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    return module.score(
        dataset=str(parts["dataset"]),
        adapter_images=str(drawn["adapter_images"]),
        base_images=str(drawn["base_images"]),
        judge=str(parts["judge"]),
        evaluation=evaluation,
        output=str(output),
        device="cpu",
        progress=quiet,
        **more,
    )


def unbiased_mmd(real: np.ndarray, drawn: np.ndarray) -> float:
    """Equation 4 of Binkowski et al. 2018, sum by sum."""

    def mean(one: np.ndarray, other: np.ndarray, distinct: bool) -> float:
        pairs = [(i, j) for i in range(len(one)) for j in range(len(other)) if i != j or distinct]
        kernel = [(float(one[i].astype(float) @ other[j].astype(float)) + 1) ** 3 for i, j in pairs]
        return sum(kernel) / len(kernel)

    return mean(real, real, False) + mean(drawn, drawn, False) - 2 * mean(real, drawn, True)


def quiet(message: str, **numbers: float) -> None:
    pass
