"""What passes a policy that is weaker than the one before says so, at every door."""

from dataclasses import replace

import pytest

from adire_assets.config import held_weights
from adire_assets.families.diffusion.gates import ChampionGates, GateConfig
from adire_assets.gates import promotion
from adire_assets.gates.report import pages
from adire_assets.ops import operations
from adire_assets.serving import record, release
from adire_assets.serving.rollout import deployment
from tests.support.garbage import discard
from tests.support.shop import MODEL, POLICY, Shop, verdict

STRICT = POLICY.model_copy(update={"clip_s_minimum": 1.7})
LOWERED = "gates.clip_s_minimum 1.7 -> 0.75"


def test_what_was_refused_and_passes_by_a_lower_threshold_says_so(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    assert not verdict(shop.decide(evaluation, STRICT)).passed
    found = verdict(shop.decide(evaluation))
    told = f"weaker than that of the verdicts before it: {LOWERED}"
    assert found.passed and found.sentence().endswith(f"; by a policy {told}")
    checks = {gate.name: gate for gate in found.checks(GateConfig)}
    assert checks["clip_s"].explanation.endswith(f"; {told}")
    assert "weaker" not in checks["safety"].explanation
    # Another adapter, and a step between that is stricter elsewhere, do not make it forgotten.
    elsewhere = POLICY.model_copy(update={"sharpness_minimum": None, "exposure_minimum": None})
    shop.decide(evaluation, elsewhere.model_copy(update={"nsfw_probability_maximum": 0.5}))
    assert LOWERED in verdict(shop.decide(shop.evaluation("second", 1.6))).sentence()


def test_a_verdict_that_was_made_before_is_made_again_when_it_is_weaker_now(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    assert verdict(shop.decide(evaluation)).weakness() == ""
    shop.decide(evaluation, STRICT)
    assert LOWERED in verdict(shop.decide(evaluation)).weakness()


def test_a_margin_that_was_widened_or_taken_away_is_named_at_its_gate(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    for margins, now in (({"clip_s": 0.5}, "0.5"), ({}, "none")):
        gates = GateConfig(champion=ChampionGates(margins=margins))
        found = verdict(shop.decide(shop.evaluation("second", 1.6), gates))
        checks = {gate.name: gate.explanation for gate in found.checks(GateConfig)}
        told = f"weaker than that of release 1: gates.champion.margins.clip_s 0.1 -> {now}"
        assert checks["champion_clip_s"].endswith(f"; {told}")


def test_what_went_live_by_a_weaker_policy_keeps_saying_so(shop: Shop) -> None:
    first = shop.evaluation("first", 1.8)
    shop.release(1, first, shop.decide(first, STRICT).artifact)
    shop.bring_live(1)
    second = shop.evaluation("second", 1.75)
    before = shop.decide(second)
    assert LOWERED in verdict(before).weakness()
    shop.release(2, second, before.artifact)
    shop.bring_live(2)
    again = shop.decide(second)
    assert again.reused and again.artifact == before.artifact
    # It is the policy before for the next one.
    assert verdict(shop.decide(shop.evaluation("third", 1.75))).weakness() == ""
    page = pages.page_path(shop.project, before.artifact).read_text()
    assert "asks less than that of release 1" in page
    assert "gates.clip_s_minimum" in page and ">1.7<" in page and ">0.75<" in page


def test_a_deployment_tells_of_the_policy_of_today_and_keeps_it(shop: Shop) -> None:
    first, second = shop.evaluation("first", 1.6), shop.evaluation("second", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    wanted = shop.release(2, second, shop.decide(second).artifact)
    said: list[str] = []
    promotion.require_release(shop.project, wanted, said.append)
    assert said == []
    shop.configure("nsfw_probability_maximum: 0.9")
    fleet = shop.project.root / "configs" / "fleet.yaml"
    fleet.write_text(
        fleet.read_text().replace("error_rate_maximum: 0.05", "error_rate_maximum: 0.4")
    )
    promotion.require_release(shop.project, wanted, said.append)
    [sentence] = said
    assert sentence == (
        "release 2 of cloth goes by a policy weaker than that of release 1: "
        "gates.nsfw_probability_maximum 0.8 -> 0.9, rollout.local.error_rate_maximum 0.05 -> 0.4"
    )
    kept = release.read_record(shop.project, MODEL, 2)
    assert [one["key"] for one in kept.provenance["policy"]["weakened"]] == [
        "gates.nsfw_probability_maximum",
        "rollout.local.error_rate_maximum",
    ]
    decided = shop.store.open(kept.verdict).manifest["recipe"]["config"]
    assert decided["nsfw_probability_maximum"] == 0.9  # what brings it live, not what built it


def test_verdicts_that_gc_reduced_to_their_manifest_still_count(shop: Shop) -> None:
    evaluation = shop.evaluation("first", 1.6)
    discard(shop.store, shop.decide(evaluation, STRICT).artifact)
    assert LOWERED in verdict(shop.decide(evaluation)).weakness()


def test_status_names_the_policy_that_decided_and_the_one_of_now(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.evaluation("first", 1.8)
    shop.decide(first, STRICT)
    wanted = shop.release(1, first, shop.decide(first).artifact)
    policy = {"uncommitted": ["a.yaml (changed)"]}
    told = {"code": {"build": "b"}, "dvc_hash": "d", "policy": policy}
    release.write_record(shop.project, replace(wanted, provenance=told))
    shop.bring_live(1)
    shop.configure("nsfw_probability_maximum: 0.9")
    monkeypatch.setattr("adire_assets.tracking.registry.aliases", lambda *_: {"champion": 1})
    monkeypatch.setattr("adire_assets.ops.operations.stale", lambda *_: [])
    monkeypatch.setattr(held_weights, "known", lambda *_: None)
    live = deployment.TargetStatus(record.read(shop.project, "local", MODEL), {}, [])
    monkeypatch.setattr(deployment, "target_statuses", lambda *_: [live])
    monkeypatch.setenv("ADIRE_FLEET", str(shop.project.root / "configs" / "fleet.yaml"))
    record.quarantine(shop.project, MODEL, 1, "pale")
    record.lift_quarantine(shop.project, MODEL, 1, "looked again")
    said = "\n".join(operations.status(shop.project))
    assert f"by a policy weaker than that of the verdicts before it: {LOWERED}" in said
    assert "decided by files that were not committed: a.yaml (changed)" in said
    assert (
        "policy now: weaker than that of release 1: gates.nsfw_probability_maximum 0.8 -> 0.9"
        in said
    )
    assert "quarantine of release 1 lifted: looked again" in said
    assert "fleet: " in said and "as ADIRE_FLEET says" in said


def test_what_was_refused_before_is_counted_by_adapter(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    shop.release(1, first, shop.decide(first).artifact)
    shop.bring_live(1)
    for name in ("a", "b", "a"):
        assert not verdict(shop.decide(shop.evaluation(name, 1.4))).passed
    lucky = shop.decide(shop.evaluation("lucky", 1.6))
    assert lucky.artifact.manifest["refused_before"] == 2
    page = pages.page_path(shop.project, lucky.artifact).read_text()
    assert "refused since what is live went live: 2." in page
    assert promotion.policy_facts(shop.project, lucky.artifact)["refused_before"] == 2


def test_what_brought_a_release_live_stays_on_record(shop: Shop) -> None:
    first = shop.evaluation("first", 1.6)
    decided = shop.decide(first).artifact
    facts = {**promotion.policy_facts(shop.project, decided), "uncommitted": ["a.yaml (changed)"]}
    wanted = replace(shop.release(1, first, decided), provenance={"policy": facts})
    release.write_record(shop.project, wanted)
    assert promotion.policy_facts(shop.project, decided, 1)["uncommitted"] == []
    shop.bring_live(1)
    promotion.require_release(shop.project, wanted, print)
    assert promotion.policy_facts(shop.project, decided, 1) == facts
    assert release.read_record(shop.project, MODEL, 1) == wanted
