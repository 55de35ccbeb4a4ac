"""A person's approval: what it is about, who may give it, and what waits for it meanwhile.

The releases are light ones of a project without servers: what is live is what the record says. The
way through a real Triton is in tests/line.
"""

import json
import threading
from dataclasses import replace

import pytest

from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.gates import approval_commands, approvals, promotion
from adire_assets.gates.approvals import Waiting
from adire_assets.ops import operations
from adire_assets.serving import record, release
from adire_assets.serving.gateway.gateway import GatewayDown
from adire_assets.serving.rollout import rollout
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.rollout.deployment import deploy
from tests.support.approvals import (
    CONFIG,
    WAITS,
    approve,
    deployed,
    go_live,
    hold,
    resumable,
    waiting,
)
from tests.support.house import TARGET, House
from tests.support.light import MODEL

# --- the hold ----------------------------------------------------------------------------------


def test_a_release_without_approval_is_held_with_nothing_half_done(house: House) -> None:
    before = house.record
    with pytest.raises(Waiting, match=f"^{WAITS}$"):
        deployed(house, 2)
    assert house.record == before
    assert waiting(house) == [2]
    approve(house, 2)
    with pytest.raises(GatewayDown):  # so nothing but the missing gateway stops it
        deployed(house, 2)
    assert waiting(house) == []


def test_what_is_live_already_goes_on_when_approval_becomes_required(house: House) -> None:
    with pytest.raises(GatewayDown):
        deployed(house, 1)
    assert waiting(house) == []


def test_without_the_policy_nothing_waits(house: House) -> None:
    path = house.project.model_file(MODEL)
    path.write_text(CONFIG.replace("required", "none"))
    with pytest.raises(GatewayDown):
        deployed(house, 2)
    assert load_model(house.project, MODEL).evaluation.gates.human_approval == "none"


@pytest.mark.parametrize("value", ["yes", "Required"])
def test_another_policy_is_refused_with_what_is_allowed(house: House, value: str) -> None:
    house.project.model_file(MODEL).write_text(CONFIG.replace("required", value))
    with pytest.raises(UserError, match=r"human_approval.*'none' or 'required'"):
        load_model(house.project, MODEL)


def test_an_approval_taken_back_at_the_last_moment_stops_the_rollout(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment that has passed and waits for its gateway finds the approval gone."""
    approve(house, 2)
    wanted = house.releases[2]

    def answers_late(self: object) -> bool:
        if approvals.approval(house.project, wanted):
            approvals.revoke(house.project, wanted, "seen a second time")
        return True

    monkeypatch.setattr("adire_assets.serving.gateway.gateway.Gateway.live", answers_late)
    with pytest.raises(Waiting):
        deploy(
            house.project,
            house.fleet,
            MODEL,
            2,
            verify=lambda one: promotion.require_release(house.project, one, print),
            callbacks=Callbacks(house.open_judge, print),
        )
    assert house.record.rollout is None


# --- the approval ------------------------------------------------------------------------------


def test_an_approval_says_who_when_why_and_of_what(house: House) -> None:
    made = approve(house, 2)
    path = house.project.home / "approvals" / MODEL / "2.json"
    [kept] = json.loads(path.read_text())["entries"]
    content = house.releases[2]
    assert kept == {
        "action": "approved",
        "at": made.at,
        "by": "ada",
        "reason": "rounder",
        "rating": None,
        "content": {
            "repository": content.repository["content_hash"],
            "adapter": content.adapter["content_hash"],
            "evaluation": content.evaluation["content_hash"],
        },
    }


@pytest.mark.parametrize("part", ["repository", "adapter", "evaluation"])
def test_an_approval_counts_for_no_other_content(house: House, part: str) -> None:
    approve(house, 2)
    other = replace(
        house.releases[2], **{part: {**getattr(house.releases[2], part), "content_hash": "f" * 64}}
    )
    with pytest.raises(Waiting, match=WAITS):
        approvals.require(house.project, other)
    approvals.require(house.project, house.releases[2])
    # And one for the other content takes nothing from the first.
    approvals.approve(house.project, other, "also looked at")
    approvals.revoke(house.project, other, "no")
    approvals.require(house.project, house.releases[2])


def test_an_approval_is_never_replaced_and_everything_is_kept(house: House) -> None:
    approve(house, 2)
    with pytest.raises(UserError, match=r"approved already, by ada at .*: rounder.*adire revoke"):
        approve(house, 2)
    approvals.revoke(house.project, house.releases[2], "too pale", "bisi")
    with pytest.raises(UserError, match="is not approved"):
        approvals.revoke(house.project, house.releases[2], "twice")
    approve(house, 2)
    told = approvals.history(house.project, MODEL, 2)
    assert [(entry.action, entry.by) for entry in told] == [
        ("approved", "ada"),
        ("revoked", "bisi"),
        ("approved", "ada"),
    ]


def test_two_people_together_make_one_approval(house: House) -> None:
    refused: list[UserError] = []

    def one() -> None:
        try:
            approve(house, 2)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert len(approvals.history(house.project, MODEL, 2)) == 1


@pytest.mark.parametrize("state", ["live", "on its way"])
def test_what_has_gone_on_its_way_is_rolled_back_and_not_revoked(house: House, state: str) -> None:
    approve(house, 2)
    if state == "live":
        go_live(house, 2)
    else:
        rollout.begin(house.project, house.fleet, MODEL, 2)
    with pytest.raises(UserError, match=f"is {state} on local; `adire rollback light"):
        approvals.revoke(house.project, house.releases[2], "too late")
    assert approvals.approval(house.project, house.releases[2])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("light@9", "there is no release 9 of light; releases here: 1, 2, 3"),
        ("light", "named like indigo@3"),
        ("../light@2", "named like indigo@3"),
        ("light@2", "quarantined: too pale"),
    ],
)
def test_what_cannot_go_live_cannot_be_approved(house: House, name: str, sentence: str) -> None:
    record.quarantine(house.project, MODEL, 2, "too pale")
    with pytest.raises(UserError, match=sentence):
        approval_commands.approve(house.project, name, "a reason", None, [], print)
    assert approvals.history(house.project, MODEL, 2) == []


def test_what_a_gate_refuses_cannot_be_approved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise UserError("refused: clip_s 0.5 is below 0.75")

    monkeypatch.setattr(promotion, "require_passable", refused)
    with pytest.raises(UserError, match=r"clip_s 0\.5 is below"):
        approval_commands.approve(house.project, "light@2", "a reason", None, [], print)
    # Nor does it wait: it is refused, whoever has approved it.
    with pytest.raises(UserError, match=r"clip_s 0\.5 is below") as caught:
        deployed(house, 2)
    assert not isinstance(caught.value, Waiting) and waiting(house) == []


# --- which one goes on -------------------------------------------------------------------------


def test_only_what_was_asked_for_goes_on_and_the_latest_first(house: House) -> None:
    approve(house, 2)
    assert resumable(house) is None  # nobody has asked for it yet
    approvals.hold(house.project, house.releases[2])
    hold(house, 3)
    assert (waiting(house), resumable(house)) == ([3], 2)  # 2 need not wait for 3
    # However long its deployment takes: 3 was asked for after it.
    go_live(house, 2, at="2999-01-01T00:00:00+00:00")
    assert (waiting(house), resumable(house)) == ([3], None)
    approve(house, 3)
    assert resumable(house) == 3


def test_what_a_later_deployment_overtook_waits_no_longer(house: House) -> None:
    hold(house, 2)
    go_live(house, 3, at="2999-01-01T00:00:00+00:00")
    assert waiting(house) == []
    approve(house, 2)
    assert resumable(house) is None


def test_who_was_held_up_before_it_waits_has_been_overtaken_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_up(*_: object) -> None:
        go_live(house, 3, at="2030-01-01T00:00:01+00:00")
        monkeypatch.setattr(record, "now", lambda: "2030-01-01T00:00:02+00:00")

    monkeypatch.setattr(record, "now", lambda: "2030-01-01T00:00:00+00:00")
    monkeypatch.setattr(promotion, "require_passable", held_up)
    hold(house, 2)
    approve(house, 2)
    assert resumable(house) is None


def test_what_was_rolled_back_or_sent_back_does_not_go_on_by_itself(house: House) -> None:
    hold(house, 2)
    approve(house, 2)
    record.quarantine(house.project, MODEL, 2, "too pale")
    assert resumable(house) is None
    record.lift_quarantine(house.project, MODEL, 2, "looked again")
    assert resumable(house) == 2
    end = {"number": 2, "outcome": "rolled_back", "reason": "slow", "at": record.now()}
    record.change(
        house.project,
        TARGET,
        MODEL,
        lambda now: replace(now, last_rollout={**end, "decisions": []}),
    )
    assert resumable(house) is None


def test_status_shows_who_waits_and_who_approved(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adire_assets.tracking.registry.aliases", lambda *_: {"champion": 1})
    monkeypatch.setattr("adire_assets.ops.operations.stale", lambda *_: [])
    monkeypatch.setattr("adire_assets.serving.rollout.deployment.target_statuses", lambda *_: [])
    hold(house, 2)
    assert "waits for approval: adire approve light@2" in "\n".join(
        operations.status(house.project)
    )
    approve(house, 2)
    told = "\n".join(operations.status(house.project))
    assert "waits" not in told and "approved: release 2 by ada at" in told


# --- the sensor --------------------------------------------------------------------------------


def test_the_release_that_a_name_means(house: House) -> None:
    assert release.record_named(house.project, "light@3") == house.releases[3]
