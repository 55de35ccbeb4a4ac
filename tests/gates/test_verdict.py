"""The verdict: every gate refuses alone, and nothing that is missing passes."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from adire_assets.config import gates as config
from adire_assets.core import lineage
from adire_assets.core.gate import Gate, GateRule, latency
from adire_assets.families.diffusion import FAMILY
from adire_assets.families.diffusion.gates import METRICS, GateConfig
from adire_assets.gates import promotion
from adire_assets.gates.comparison import Comparison
from adire_assets.gates.verdict import Verdict, checks, decide, rules

REPORT = {
    "adapter_problems": [],
    "clip_s_mean": 1.25,
    "clip_s_base_mean": 0.5,
    "kid_adapter_mean": 0.25,
    "kid_base_mean": 2.0,
    "nsfw_probability_maximum": 0.25,
    "scores": {
        "style_similarity": 1.0,
        "attribute_accuracy": 0.75,
        "diversity": 1.0,
        "memorisation": 0.25,
        "sharpness": 0.75,
        "exposure": 0.75,
    },
}
TIMINGS = {
    "seconds_per_image_mean": 0.5,
    "seconds_per_image_p95": 0.75,
    "peak_memory_bytes": 2**18,
    "cold_load_seconds": 0.25,
}
POLICY = GateConfig(nsfw_probability_maximum=0.5, clip_s_minimum=0.75, seconds_per_image_maximum=30)
BOUNDED = {
    "style_similarity_minimum": 0.5,
    "attribute_accuracy_minimum": 0.5,
    "diversity_minimum": 0.5,
    "memorisation_maximum": 0.5,
    "sharpness_minimum": 0.5,
    "exposure_minimum": 0.5,
    "peak_memory_mebibytes_maximum": 0.5,
    "cold_load_seconds_maximum": 0.5,
}
IN_TIMINGS = {"peak_memory": ("peak_memory_bytes", 2**20), "cold_load": ("cold_load_seconds", 1)}
BAD = {
    "adapter_sound": {"adapter_problems": ["unet.x is NaN", "every lora_B is zero"]},
    "clip_s": {"clip_s_mean": 0.5},
    "seconds_per_image": {"seconds_per_image_mean": 32.0},
    "kid_below_base": {"kid_adapter_mean": 2.0},
    "safety": {"nsfw_probability_maximum": 0.75},
}
SOURCE = {
    "adapter_sound": "adapter_problems",
    "clip_s": "clip_s_mean",
    "seconds_per_image": "seconds_per_image_mean",
    "kid_below_base": "kid_adapter_mean",
    "safety": "nsfw_probability_maximum",
}


CHECK_NAMES = tuple(checks(GateConfig))
GATE_NAMES = ("adapter_sound", *(rule.name for rule in rules(GateConfig)))
BOUNDS = [
    rule.name for rule in rules(GateConfig) if GateConfig.model_fields[rule.key].default is None
]


def decide_with(changes: dict, policy: GateConfig = POLICY) -> Verdict:
    report = {**REPORT, **{key: changes[key] for key in changes if key in REPORT}}
    timings = {**TIMINGS, **{key: changes[key] for key in changes if key in TIMINGS}}
    return decide(report, timings, policy)


def gate_of(verdict: Verdict, name: str) -> Gate:
    return next(gate for gate in verdict.gates if gate.name == name)


def failed(verdict: Verdict) -> list[str]:
    return [gate.name for gate in verdict.gates if not gate.passed]


def test_a_sound_evaluation_passes_every_gate() -> None:
    verdict = decide(REPORT, TIMINGS, POLICY)
    assert verdict.passed
    assert tuple(gate.name for gate in verdict.gates) == GATE_NAMES
    margins = {gate.name: gate.margin for gate in verdict.gates}
    assert margins == {
        "adapter_sound": 0.0,
        "clip_s": 0.5,
        "seconds_per_image": 29.5,
        "kid_below_base": 1.75,
        "safety": 0.25,
        **dict.fromkeys(BOUNDS),
    }
    assert verdict.sentence() == (
        "passed all 5 gates: adapter_sound 0, clip_s 1.25, seconds_per_image 0.5, "
        "kid_below_base 0.25, safety 0.25"
    )


@pytest.mark.parametrize("name", [name for name in GATE_NAMES if name not in BOUNDS])
def test_each_gate_refuses_alone_and_says_why(name: str) -> None:
    verdict = decide_with(BAD[name])
    assert not verdict.passed
    assert failed(verdict) == [name]
    gate = gate_of(verdict, name)
    assert gate.margin is not None and gate.margin <= 0
    assert verdict.sentence().startswith(f"refused: {name} ")
    assert f"{gate.value:.4g}" in gate.explanation and f"{gate.threshold:.4g}" in gate.explanation
    assert "margin" in gate.explanation and gate.unit in gate.explanation


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "1.25", True, []])
@pytest.mark.parametrize("name", [*SOURCE][1:])
def test_a_value_that_is_no_number_never_passes(name: str, value: object) -> None:
    verdict = decide_with({SOURCE[name]: value})
    assert failed(verdict) == [name]
    assert gate_of(verdict, name).value is None
    assert "no value" in verdict.sentence()
    json.dumps(asdict(verdict), allow_nan=False)


@pytest.mark.parametrize("value", [0.5, 0.25, 0.75, None, math.nan, True])
@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_holds_once_the_policy_has_one(name: str, value: float | None) -> None:
    report, timings = {**REPORT, "scores": {**REPORT["scores"], name: value}}, TIMINGS
    if name in IN_TIMINGS:
        field, parts = IN_TIMINGS[name]
        timings = {**TIMINGS, field: value * parts if type(value) is float else value}
    shown = decide(report, timings, POLICY)
    assert shown.passed
    gate = gate_of(shown, name)
    assert gate.threshold is None and gate.explanation.startswith("not required (")
    assert gate.value == (value if type(value) is float and math.isfinite(value) else None)
    asked = decide(report, timings, POLICY.model_copy(update=BOUNDED))
    bad = 0.75 if name in ("memorisation", *IN_TIMINGS) else 0.25
    assert failed(asked) == ([] if gate.value is not None and value != bad else [name])
    assert gate_of(asked, name).threshold == 0.5
    if asked.passed:
        assert asked.sentence().startswith("passed all 13 gates: adapter_sound 0, ")


@pytest.mark.parametrize("value", [None, math.nan, 0, {}])
def test_problems_that_were_not_looked_for_never_pass(value: object) -> None:
    assert failed(decide_with({"adapter_problems": value})) == ["adapter_sound"]


def test_an_empty_evaluation_passes_nothing() -> None:
    everything = POLICY.model_copy(update=BOUNDED)
    assert failed(decide({}, {}, everything)) == list(GATE_NAMES)


def test_a_base_without_kid_is_no_threshold() -> None:
    verdict = decide_with({"kid_base_mean": math.nan})
    assert failed(verdict) == ["kid_below_base"]
    assert verdict.sentence() == "refused: kid_below_base has no threshold"


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"clip_s_mean": 0.75}, True),
        ({"clip_s_mean": math.nextafter(0.75, 0)}, False),
        ({"seconds_per_image_mean": 30.0}, True),
        ({"seconds_per_image_mean": math.nextafter(30.0, 31)}, False),
        ({"nsfw_probability_maximum": 0.5}, True),
        ({"kid_adapter_mean": 2.0}, False),
        ({"kid_adapter_mean": -0.03}, True),
    ],
)
def test_thresholds_are_exact(changes: dict, passes: bool) -> None:
    assert decide_with(changes).passed is passes


def test_refusal_in_one_sentence() -> None:
    verdict = decide_with({"clip_s_mean": 0.61, "seconds_per_image_mean": 40.0})
    assert verdict.sentence() == (
        "refused: clip_s 0.61 is below 0.75 (margin -0.14); "
        "seconds_per_image 40 is above 30 (margin -10)"
    )
    assert "every lora_B is zero" in decide_with(BAD["adapter_sound"]).sentence()


def test_kid_is_shown_but_not_required_when_switched_off() -> None:
    policy = GateConfig(nsfw_probability_maximum=0.5, clip_s_minimum=0.75, kid_below_base=False)
    verdict = decide_with({"kid_adapter_mean": 3.0}, policy)
    assert verdict.passed
    gate = gate_of(verdict, "kid_below_base")
    assert gate.margin == -1.0 and gate.explanation.startswith("not required")


def test_a_verdict_survives_json() -> None:
    verdict = decide_with(BAD["clip_s"])
    assert Verdict.from_dict(json.loads(json.dumps(asdict(verdict)))) == verdict


BETTER = Comparison("clip_s", 1.0, 1.02, 0.02, -0.03, 0.1, 0.07, True, True, "clip_s is as good.")
WORSE = Comparison("kid", 0.1, 0.5, -0.4, -0.6, 0.1, 0.2, False, True, "kid is worse.")
SMALL = Comparison(
    "diversity", 1.0, 0.9, -0.1, -0.5, 0.2, 0.6, False, False, "diversity is too small to decide."
)
ASIDE = Comparison(
    "attribute_accuracy", None, None, None, None, 0.1, None, True, True, "asked for by no prompt."
)


def test_each_comparison_is_a_gate_after_the_absolute_ones() -> None:
    verdict = decide(REPORT, TIMINGS, POLICY, (BETTER, ASIDE))
    assert verdict.passed
    assert [gate.name for gate in verdict.gates] == [
        *GATE_NAMES,
        "champion_clip_s",
        "champion_attribute_accuracy",
    ]
    gate = gate_of(verdict, "champion_clip_s")
    assert (gate.value, gate.threshold, gate.explanation) == (-0.03, -0.1, "clip_s is as good.")
    assert gate.margin == pytest.approx(0.07)
    assert verdict.sentence().endswith("; against the champion clip_s +0.02 (above -0.03)")
    assert Verdict.from_dict(json.loads(json.dumps(asdict(verdict)))) == verdict


def test_a_worse_or_undecided_comparison_refuses_and_says_which() -> None:
    verdict = decide(REPORT, TIMINGS, POLICY, (BETTER, WORSE, SMALL))
    assert failed(verdict) == ["champion_kid", "champion_diversity"]
    assert verdict.sentence() == (
        "refused: champion_kid -0.6 is not above -0.1 (margin -0.5); "
        "diversity is too small to decide."
    )
    assert decide({}, {}, POLICY, (BETTER,)).passed is False


def test_there_is_a_check_for_every_name_with_or_without_champion() -> None:
    for comparisons, why in (
        ((), "no champion to compare with, or no margin asked for"),
        ((WORSE,), "the policy has no margin for this metric"),
    ):
        found = decide(REPORT, TIMINGS, POLICY, comparisons).checks(GateConfig)
        assert tuple(check.name for check in found) == CHECK_NAMES
        absent = [check for check in found if check.explanation == why]
        assert len(absent) == len(CHECK_NAMES) - len(GATE_NAMES) - len(comparisons)
        assert all(check.passed for check in absent)


KEYS = {rule.name: f"gates.{rule.key}" for rule in rules(GateConfig)}
KEYS |= {f"champion_{metric}": f"gates.champion.margins.{metric}" for metric in METRICS}


@pytest.mark.parametrize("name", KEYS)
def test_a_check_says_that_its_own_threshold_was_weakened(name: str) -> None:
    weakened = ({"key": KEYS[name], "before": 1.0, "now": 2.0},)
    verdict = replace(decide(REPORT, TIMINGS, POLICY), weakened=weakened, weaker_than="release 3")
    told = [gate.name for gate in verdict.checks(GateConfig) if "weaker than" in gate.explanation]
    assert told == [name]


def test_the_gates_are_those_of_the_family() -> None:
    class Words(config.GateConfig):
        METRICS = ("perplexity",)
        GATES = (
            latency("text"),
            GateRule("perplexity", "scores.perplexity", "<=", "perplexity_maximum", "perplexity"),
        )
        seconds_per_text_maximum: float = 1.0
        perplexity_maximum: float | None = 9.0

    names = ["adapter_sound", "seconds_per_text", "perplexity", "peak_memory", "cold_load"]
    assert [*checks(Words)] == [*names, "champion_perplexity"]
    sound = {"adapter_problems": [], "scores": {"perplexity": 12.0}}
    verdict = decide(sound, {"seconds_per_text_mean": 0.25}, Words())
    assert verdict.sentence() == "refused: perplexity 12 is above 9 (margin -3)"
    assert [gate.name for gate in verdict.gates] == names
    with pytest.raises(ValueError, match="no metric kid; the metrics are perplexity"):
        Words(champion=config.ChampionGates(margins={"kid": 0.1}))


def test_the_table_of_the_gates_is_part_of_a_verdict_and_of_no_evaluation() -> None:
    table = {"adire_assets.families.diffusion.gates", "adire_assets.core.gate"}
    assert table <= {*lineage.sources(promotion.verdict_modules(GateConfig))}
    for step in (FAMILY.train, FAMILY.generate, FAMILY.evaluate, FAMILY.drawing, FAMILY.dataset):
        assert not table & {*lineage.sources(step.modules)}


def test_the_verdict_needs_no_torch() -> None:
    code = "import sys, adire_assets.gates.verdict; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
