"""Every family that ships has the functions that its plug promises, and its keys hold its code."""

import pytest

from adire_assets.core import lineage
from adire_assets.core.family import family

SHIPPED = ("causal_lm", "diffusion")
PROMISED = {
    "weights": ("recipe", "make", "find_again"),
    "dataset": ("build",),
    "data": ("TAKES", "ENDINGS", "TEXT", "is_item", "judge", "texts", "lay_down"),
    "train": ("train",),
    "trial": ("run", "refusal", "METRIC", "DIRECTION", "UNPRUNED_TRIALS"),
    "launch": ("launched",),
    "drawing": ("drawing_of", "TIMED_BY"),
    "generate": ("draw", "measure"),
    "evaluate": ("score",),
    "samples": ("samples",),
    "shows": ("of_dataset", "of_adapter", "of_evaluation", "items", "file_items"),
    "golden": ("write_evaluated", "redraw", "conditions", "Comparison"),
    "formats": ("export", "import_"),
    "sabotages": ("sabotages", "UNNEEDED"),
    "serve": (
        *("requests", "expected", "repeated", "probe", "again"),
        *("inputs", "prompt", "content", "parity"),
    ),
    "judge_process": ("open_judge",),
    "signals": ("open_signals",),
    "answers": ("files", "save", "read_provenance", "position"),
}
LANGUAGE = "adire_assets.families.causal_lm"
SHARED = "adire_assets.families.training"
# Step of a language model -> (what decides about it, what does not).
DECIDES = {
    "dataset": (("data.records", "data.splits", "languages"), ("training.lora", "generation")),
    "train": (
        ("chat", "adapter_files", "training.examples", "training.learning"),
        ("evaluation.scores", "training.settings"),
    ),
    "generate": (("chat", "generation", "adapter_files"), ("evaluation.scores", "training.lora")),
    "evaluate": (
        ("evaluation.scores", "evaluation.metrics.slots", "texts", "languages"),
        ("generation", "training.lora", "gates"),
    ),
}
COMPUTES = {
    "dataset": {"datasketch", "numpy", "regex", "scipy"},
    "train": {"peft", "tokenizers", "torch", "transformers"},
    "generate": {"peft", "tokenizers", "torch", "transformers"},
    "evaluate": {"numpy", "regex", "sacrebleu"},
}


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("step", PROMISED)
def test_a_step_has_the_functions_of_the_plug(name: str, step: str) -> None:
    functions = getattr(family(name), step).functions
    assert [one for one in PROMISED[step] if not hasattr(functions, one)] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_what_an_engine_changes_is_of_the_plug_too(name: str) -> None:
    own = family(name)
    for engine, changed in own.by_engine.items():
        served = own.served_by(engine)
        assert {one: getattr(served, one) for one in changed} == changed
        assert [one for one in PROMISED["serve"] if not hasattr(served.serve.functions, one)] == []
    assert own.served_by("") is own


@pytest.mark.parametrize("step", DECIDES)
def test_a_language_models_step_goes_by_the_code_that_decides_about_it_alone(step: str) -> None:
    modules = getattr(family("causal_lm"), step).modules
    found = {name.removeprefix(f"{LANGUAGE}.") for name in lineage.sources(modules)}
    decides, others = DECIDES[step]
    assert set(decides) <= found and not found & set(others)
    assert not any("diffusion" in name for name in found)
    assert set(lineage.libraries(modules)) >= COMPUTES[step]


def test_the_shared_loop_and_launcher_are_part_of_a_training() -> None:
    found = lineage.sources(family("causal_lm").train.modules)
    assert {f"{SHARED}.{name}" for name in ("loop", "launch", "fused_lora", "draws")} <= {*found}
