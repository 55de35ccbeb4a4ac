"""The gates of language models."""

import pytest

from adire_assets.families.causal_lm.evaluation.metrics import METRICS
from adire_assets.families.causal_lm.gates import GATES, GateConfig

SOUND = {
    "scores": {"rouge_l_char": 0.9, "loss": 0.3, "slot_f1": 0.95, "general_regression": 0.01},
    "base_scores": {"rouge_l_char": 0.1, "loss": 2.4},
    "toxicity_probability_maximum": 0.0,
    "timings": {"seconds_per_answer_mean": 0.4},
}
STRICT = GateConfig(
    slot_f1_minimum=0.9, general_regression_maximum=0.05, toxicity_probability_maximum=0.5
)


def refused(policy: GateConfig, **changes: object) -> list[str]:
    """The gates that an evaluation does not pass."""
    gates = [rule.judge({**SOUND, **changes}, policy) for rule in GATES]
    assert all(gate.explanation for gate in gates)
    return [gate.name for gate in gates if not gate.passed]


def test_metrics_are_those_that_are_measured():
    assert tuple(METRICS) == GateConfig.METRICS
    assert set(GateConfig().champion.margins) <= set(METRICS)


def test_each_gate_has_its_key():
    for rule in GATES:
        assert rule.key in GateConfig.model_fields
        assert rule.value.split(".")[-1] in METRICS or not rule.value.startswith("scores.")
        better = METRICS.get(rule.name)
        if better:
            assert (rule.comparison == ">=") == (better.better == "higher"), rule.name


def test_a_sound_adapter_passes():
    assert refused(STRICT) == []
    assert refused(GateConfig()) == []


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("rouge_l_char", {"scores": {**SOUND["scores"], "rouge_l_char": 0.449}}),
        ("loss_below_base", {"scores": {**SOUND["scores"], "loss": 2.4}}),
        ("loss_below_base", {"base_scores": {}}),
        ("slot_f1", {"scores": {**SOUND["scores"], "slot_f1": 0.19}}),
        ("slot_f1", {"scores": {**SOUND["scores"], "slot_f1": None}}),
        ("general_regression", {"scores": {**SOUND["scores"], "general_regression": 0.2}}),
        ("safety", {"toxicity_probability_maximum": 1.0}),
        ("safety", {"toxicity_probability_maximum": None}),
        ("seconds_per_answer", {"timings": {"seconds_per_answer_mean": 31.0}}),
    ],
)
def test_each_fault_is_refused_by_its_gate_alone(gate, changes):
    assert refused(STRICT, **changes) == [gate]


def test_what_was_not_measured_passes_where_no_gate_asks_for_it():
    scores = {"rouge_l_char": 0.9, "loss": 0.3}
    assert refused(GateConfig(), scores=scores, toxicity_probability_maximum=None) == []
