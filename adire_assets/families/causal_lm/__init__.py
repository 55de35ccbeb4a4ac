"""The causal_lm family: language models, whose LoRA is trained on instructions and answers.

`FAMILY` is what the rest of the product knows of it.
"""

from pathlib import Path

from adire_assets.core.answer import RequestOption, Served
from adire_assets.core.family import Family, Step


def _step(*modules: str) -> Step:
    return Step(tuple(f"{__name__}.{module}" for module in modules))


_LAUNCH = "adire_assets.families.training.launch"
FAMILY = Family(
    name="causal_lm",
    config=f"{__name__}.config:CausalLMConfig",
    gates=f"{__name__}.gates:GateConfig",
    answer="answer",
    packages=(
        *("torch", "transformers", "tokenizers", "peft", "accelerate", "numpy"),
        *("regex", "sacrebleu"),  # letters and tokenizers that the scores depend on
    ),
    engines={
        "datasketch": ("numpy", "scipy"),
        "peft": ("torch", "transformers"),
        "transformers": ("tokenizers", "torch"),
    },
    plumbing=(f"{__name__}.config", f"{__name__}.training.settings"),
    backend=Path(__file__).with_name("backend"),
    adapter_files=("adapter_model.safetensors", "adapter_config.json"),
    protocols=("openai",),
    by_engine={
        "triton": {"protocols": ("kserve-stream",), "serve": _step("serve_triton")},
    },
    served=Served(
        suffix=".json",
        quality="ROUGE-L and slot F1",
        chat=True,
        options=(
            RequestOption("seed", int, "Default: a random one, which is told.", 0, 2**31 - 1),
            RequestOption("max_tokens", int, "Of an answer.", 1, 100_000),
            RequestOption("temperature", float, "0 takes the likeliest words.", 0, 2),
            RequestOption("top_p", float, lowest=0, highest=1),
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
    shows=_step("shows"),
    golden=_step("evaluation.golden"),
    sabotages=_step("sabotages"),
    formats=_step("steps.exchange"),
    release=_step(),  # the backend is the server's own
    serve=_step("serve"),
    answers=_step("answers"),
    judge_process=_step("judge_process"),
    signals=_step("evaluation.signals"),
)
