"""When a policy is weaker than another one, and that every key has a rule for it."""

from typing import Any

import pytest
from pydantic import BaseModel

from adire_assets.config.fleet import FleetConfig, RolloutConfig
from adire_assets.families.diffusion.config import ServingConfig
from adire_assets.families.diffusion.gates import GateConfig
from adire_assets.gates import policy, policy_comparison
from tests.support.fleets import make_fleet

SETTINGS: dict[str, Any] = {"seeds": [0, 1], "prompts": ["a", "b"], "prompt_set": None}
STRICT: dict[str, Any] = {
    "clip_s_minimum": 1.5,
    "style_similarity_minimum": 0.8,
    "memorisation_maximum": 0.1,
    "human_approval": "required",
    "human_win_rate": 0.6,
    "human_minimum_pairs": 20,
    "champion": {"confidence": 0.95, "margins": {"kid": 0.1, "clip_s": 0.1}},
}
UNORDERED = {  # keys that ask nothing of a release by themselves
    "rollout.local.mirrored_percent",
    "rollout.local.maximum_seconds",
    "rollout.local.judged_answers",
    "rollout.local.replays_maximum",
}


def of(
    gates: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    fleet: FleetConfig | None = None,
    judge: str | None = "j",
    parity: int = 4,
) -> dict[str, Any]:
    merged = GateConfig.model_validate({**STRICT, **(gates or {})})
    return policy_comparison.policy_of(
        merged,
        {**SETTINGS, **(settings or {})},
        judge,
        ServingConfig(parity_images=parity),
        fleet or FLEET,
    )


FLEET = make_fleet()


def rollout(**values: Any) -> FleetConfig:
    return make_fleet(RolloutConfig(**values))


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (of({"clip_s_minimum": 0.5}), "gates.clip_s_minimum 1.5 -> 0.5"),
        (of({"style_similarity_minimum": None}), "gates.style_similarity_minimum 0.8 -> none"),
        (of({"memorisation_maximum": 0.4}), "gates.memorisation_maximum 0.1 -> 0.4"),
        (of({"seconds_per_image_maximum": 60.0}), "gates.seconds_per_image_maximum 30.0 -> 60.0"),
        (of({"kid_below_base": False}), "gates.kid_below_base true -> false"),
        (of({"human_approval": "none"}), "gates.human_approval required -> none"),
        (of({"human_win_rate": 0.5}), "gates.human_win_rate 0.6 -> 0.5"),
        (of({"human_confidence": 0.8}), "gates.human_confidence 0.95 -> 0.8"),
        (of({"human_minimum_pairs": 5}), "gates.human_minimum_pairs 20 -> 5"),
        (
            of({"champion": {"confidence": 0.8, "margins": {"kid": 0.1, "clip_s": 0.1}}}),
            "gates.champion.confidence 0.95 -> 0.8",
        ),
        (
            of({"champion": {"margins": {"kid": 0.3, "clip_s": 0.1}}}),
            "gates.champion.margins.kid 0.1 -> 0.3",
        ),
        (
            of({"champion": {"margins": {"clip_s": 0.1}}}),
            "gates.champion.margins.kid 0.1 -> none",
        ),
        (
            of({"compatibility": {"allow": {"torch": "*"}}}),
            "gates.compatibility.allow.torch none -> *",
        ),
        (of(parity=1), "serving.parity_images 4 -> 1"),
        (of(fleet=rollout(error_rate_maximum=0.2)), "rollout.local.error_rate_maximum 0.05 -> 0.2"),
        (of(fleet=rollout(minimum_seconds=0.0)), "rollout.local.minimum_seconds 5.0 -> 0.0"),
        (
            of(fleet=rollout(promotion_quantiles=["p50"])),
            'rollout.local.promotion_quantiles ["p50", "p95"] -> ["p50"]',
        ),
        (
            of(fleet=rollout(latency_increase_maximum=None)),
            "rollout.local.latency_increase_maximum 0.5 -> none",
        ),
        (of(fleet=rollout(steps=[100])), "rollout.local.steps [5, 25, 100] -> [100]"),
        (
            of(fleet=FLEET.model_copy(update={"on_failure": "keep"})),
            "rollout.on_failure rollback -> keep",
        ),
    ],
)
def test_what_asks_less_is_named_with_both_values(now: dict[str, Any], told: str) -> None:
    found = policy.weakenings(of(), now)
    assert policy.weakening_sentence("release 3", found) == f"weaker than that of release 3: {told}"
    assert policy.weakenings(now, of()) == []  # the way back is no weakening


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (of(settings={"seeds": [0, 2]}), "evaluation.seeds [0, 1] -> [0, 2]"),
        (of(settings={"prompts": ["a"]}), 'evaluation.prompts ["a", "b"] -> ["a"]'),
        (of(judge="k"), "evaluation.judge_content j -> k"),
        # Which is left out where releases are drawn by their base's own.
        (
            of(settings={"scheduler": "UniPCMultistepScheduler"}),
            "evaluation.scheduler none -> UniPCMultistepScheduler",
        ),
        (of(settings={"quantization": "int8"}), "evaluation.quantization none -> int8"),
    ],
)
def test_another_way_of_evaluating_is_not_comparable(now: dict[str, Any], told: str) -> None:
    sentence = policy.weakening_sentence("release 3", policy.weakenings(of(), now))
    assert sentence == f"evaluated in another way than release 3: {told}"


def test_what_asks_more_or_the_same_is_not_told() -> None:
    stricter = of(
        {"clip_s_minimum": 1.6, "sharpness_minimum": 0.5, "human_minimum_pairs": 30},
        fleet=rollout(error_rate_maximum=0.04, maximum_seconds=10.0, replays_maximum=900),
    )
    assert policy.weakenings(of(), stricter) == [] == policy.weakenings(of(), of())
    assert policy.same(of(), of()) and not policy.same(of(), stricter)


def test_what_an_older_policy_did_not_know_cannot_be_compared() -> None:
    older = {"gates": {"clip_s_minimum": 1.6}}
    [only] = policy.weakenings(older, of())
    assert only == {"key": "gates.clip_s_minimum", "before": 1.6, "now": 1.5}


def test_the_strictest_value_of_each_key_is_taken() -> None:
    lower, wider = of({"clip_s_minimum": 0.5}), of({"memorisation_maximum": 0.9})
    found = policy.weakenings(policy.strictest([lower, of(), wider, lower]), lower)
    assert policy.weakening_sentence("them", found) == (
        "weaker than that of them: gates.clip_s_minimum 1.5 -> 0.5"
    )


def keys(schema: type[BaseModel], prefix: str) -> list[str]:
    found = []
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += keys(inner, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def test_every_key_that_decides_has_a_rule() -> None:
    gates, steps = keys(GateConfig, "gates."), keys(RolloutConfig, "rollout.local.")
    assert {*gates} >= {"gates.champion.confidence", "gates.compatibility.allow.torch"}
    unordered = {key for key in [*gates, *steps] if policy._rule(key) is policy._other}
    # A new key belongs into policy.RULES; any change of these two is told.
    assert unordered == {"gates.champion.margins", "rollout.local.strategy"}
    assert {key for key in steps if policy._rule(key) is policy._never} == UNORDERED
    assert not [key for key in gates if policy._rule(key) is policy._never]


def test_a_new_target_with_weaker_limits_than_those_before_is_named() -> None:
    one = of()
    two = of()
    two["rollout"] = {**one["rollout"], "us": dict(one["rollout"]["local"])}
    assert policy.same(one, two) and policy.weakenings(one, two) == []
    weak = of()
    limits = {**one["rollout"]["local"], "error_rate_maximum": 0.9, "strategy": "blue_green"}
    weak["rollout"] = {**one["rollout"], "us": {**limits, "latency_maximum_seconds": 1.0}}
    assert not policy.same(one, weak)
    told = [{"key": "rollout.us.error_rate_maximum", "before": 0.05, "now": 0.9}]
    assert policy.weakenings(one, weak) == told
    # Of several before it, the strictest; also of what earlier verdicts asked together.
    looser = of()
    looser["rollout"]["eu"] = {**one["rollout"]["local"], "error_rate_maximum": 0.5}
    looser["rollout"]["us"] = {**limits, "strategy": "canary", "error_rate_maximum": 0.1}
    before = policy.strictest([one, {"rollout": {"eu": looser["rollout"]["eu"]}}])
    found = {one["key"]: one["before"] for one in policy.weakenings(before, looser)}
    assert found == {"rollout.us.error_rate_maximum": 0.05}
