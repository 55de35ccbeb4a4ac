"""What a verdict compares with: the champion's evaluation on the same data, made when it lacks."""

from dataclasses import replace

import pytest

from adire_assets.core.errors import UserError
from adire_assets.families.diffusion.gates import ChampionGates, GateConfig
from adire_assets.gates import policy_comparison, promotion
from adire_assets.line.release import triton_repository as make_triton_repository
from adire_assets.serving import release
from tests.support.shop import MODEL, POLICY, Shop, verdict


def test_the_first_release_meets_the_absolute_gates_alone(shop: Shop) -> None:
    found = verdict(shop.decide(shop.evaluation("first", 1.6)))
    assert found.passed and not found.comparisons
    checks = {gate.name: gate for gate in found.checks(GateConfig)}
    assert checks["champion_clip_s"].passed
    assert checks["champion_clip_s"].explanation.startswith("no champion to compare with")


def test_the_same_answers_are_not_worse_and_equal_values_do_not_show_that(shop: Shop) -> None:
    shop.release(1, shop.evaluation("a", 1.6))
    shop.bring_live(1)
    policy = GateConfig(champion=ChampionGates(margins={"clip_s": 0.0}))
    same = shop.evaluation("b", 1.6, scores_of="a", answers_of="a")
    equal = shop.evaluation("c", 1.6, scores_of="a")
    assert [verdict(shop.decide(one, policy)).passed for one in (same, equal)] == [True, False]


@pytest.mark.parametrize(("clip_s", "passes"), [(1.59, True), (1.4, False)])
def test_a_challenger_must_not_be_worse_than_the_champion(
    shop: Shop, clip_s: float, passes: bool
) -> None:
    champion = shop.evaluation("first", 1.6)
    shop.release(1, champion)
    shop.bring_live(1)
    built = shop.decide(shop.evaluation("second", clip_s))
    found = verdict(built)
    assert found.passed is passes
    assert next(one for one in found.gates if one.name == "champion_clip_s").passed is passes
    assert shop.evaluated == []  # the champion's own evaluation compares
    assert built.artifact.manifest["recipe"]["inputs"]["champion"] == champion.content_hash
    assert built.artifact.manifest["champion"] == champion.reference()


@pytest.mark.parametrize("part", ["lora_weights", "base_model"])
def test_a_verdict_lets_nothing_but_its_own_adapter_on_its_own_base_pass(
    shop: Shop, part: str
) -> None:
    evaluation = shop.evaluation("first", 1.6)
    decided = shop.decide(evaluation).artifact
    names = {"lora_weights": "first", "base_model": "base", part: "another"}
    adapter, base = (shop.part(kind, name) for kind, name in names.items())
    with pytest.raises(UserError, match="the verdict is about another adapter or base"):
        make_triton_repository(shop.project, adapter, base, decided, decided)
    assert not shop.store.artifacts(MODEL, "triton_repository")
    released = replace(
        shop.release(1, evaluation, decided),
        adapter=adapter.reference(),
        base_model=base.reference(),
    )
    with pytest.raises(UserError, match="the verdict is about another adapter or base"):
        promotion.require_release(shop.project, released, print)
    promotion.require_release(shop.project, release.read_record(shop.project, MODEL, 1), print)


def test_the_champion_is_not_compared_with_itself(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    before = shop.decide(evaluation)
    shop.release(1, evaluation)
    shop.bring_live(1)
    again = shop.decide(evaluation)
    assert again.reused and again.artifact == before.artifact


def test_what_is_live_stays_compared_with_the_one_before_it(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    second = shop.evaluation("second", 1.59)
    before = shop.decide(second)
    wanted = shop.release(2, second, before.artifact)
    shop.bring_live(2)
    assert verdict(before).comparisons
    again = shop.decide(second)
    assert again.reused and again.artifact == before.artifact
    promotion.require_release(shop.project, wanted, print)
    assert len(shop.store.artifacts(MODEL, "promotion_verdict")) == 2


@pytest.mark.parametrize("change", [{"data": "tuesday"}, {"steps": 30}])
def test_a_champion_evaluated_in_another_way_is_evaluated_again(shop: Shop, change: dict) -> None:
    shop.release(1, shop.evaluation("first", 1.6, **change))
    shop.bring_live(1)
    challenger = shop.evaluation("second", 1.6)
    built = shop.decide(challenger)
    assert shop.evaluated == ["first"]
    assert verdict(built).comparisons
    wanted = shop.evaluation("first", 1.6).content_hash
    assert built.artifact.manifest["recipe"]["inputs"]["champion"] == wanted
    assert shop.decide(challenger).reused and shop.evaluated == ["first"]


def test_an_evaluation_of_another_time_is_to_be_made_again(shop: Shop) -> None:
    """What evaluations are now made with is not what this one was made with."""
    shop.release(1, shop.evaluation("first", 1.6))
    shop.bring_live(1)
    with pytest.raises(UserError, match="materialize cloth/evaluation_report again"):
        shop.decide(shop.evaluation("second", 1.6, steps=50))


def test_another_champion_is_another_verdict(shop: Shop) -> None:
    for number, name in ((1, "first"), (2, "other")):
        shop.release(number, shop.evaluation(name, 1.6))
    challenger = shop.evaluation("third", 1.6)
    keys = set()
    for number in (1, 2):
        shop.bring_live(number)
        keys.add(shop.decide(challenger).artifact.key)
    assert len(keys) == 2
    assert shop.evaluation("third", 1.6) == challenger  # an evaluation knows no champion


def test_a_deployment_compares_with_the_champion_of_today(shop: Shop) -> None:
    good, bad = shop.evaluation("good", 1.6), shop.evaluation("bad", 1.4)
    release_bad = shop.release(1, bad)
    promotion.require_release(shop.project, release_bad, print)  # nothing is live yet
    release_good = shop.release(2, good)
    shop.bring_live(2)
    promotion.require_release(shop.project, release_good, print)  # itself
    with pytest.raises(UserError, match=r"refused: champion_clip_s .* is not above -0\.1"):
        promotion.require_release(shop.project, release_bad, print)


def test_a_deployment_without_a_comparable_champion_is_refused(shop: Shop) -> None:
    shop.release(1, shop.evaluation("first", 1.6, data="tuesday"))
    shop.bring_live(1)
    wanted = shop.release(2, shop.evaluation("second", 1.6))
    with pytest.raises(UserError, match="materialize cloth/promotion_verdict"):
        promotion.require_release(shop.project, wanted, print)
    shop.decide(shop.evaluation("second", 1.6))
    promotion.require_release(shop.project, wanted, print)


def test_an_evaluation_of_other_prompts_is_not_comparable(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    found = policy_comparison.compare_for_evaluation(
        shop.project, shop.evaluation("second", 1.6, steps=30), POLICY
    )
    assert found.told() == (
        "evaluated in another way than release 1: evaluation.num_inference_steps 20 -> 30"
    )
