"""What is done outside the record by a holder that was stopped changes nothing that came since.

Tritons and Envoys are stand-ins (`tests.support.stand_ins`); the processes, their locks and files
are real.
"""

import threading
from dataclasses import replace

import pytest

from adire_assets.core.errors import UserError
from adire_assets.gates import approval_commands, promotion
from adire_assets.gates.approvals import approve, revoke
from adire_assets.serving import record, release
from adire_assets.serving.fleet import slot
from adire_assets.serving.gateway import routing
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.rollout import rollout
from adire_assets.tracking import registry
from tests.support.light import MODEL
from tests.support.stand_ins import Fleet, Registry, resumed, stopped

# --- a holder that was stopped ------------------------------------------------------------------


@pytest.mark.parametrize("takes_over", ["a person", "another holder"])
def test_a_former_holder_sends_nothing_back(one: Fleet, takes_over: str) -> None:
    one.begin(2)
    one.decisions["eu"] = "rollback"
    former = stopped(one, one.carry_out, "look eu")
    one.decisions["eu"] = "promote"
    if takes_over == "a person":
        one.roll_back()
        record.lift_quarantine(one.house.project, MODEL, 2, "a mistake")
        one.deploy(2)
    else:
        one.expire()
        one.carry_out()
    assert resumed(one, former) == 0
    assert (one.live(), one.quarantined(2)) == ([2], None)
    assert one.settled()


class Over(Exception):
    """Ends who only follows."""


def lose_the_lease(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, target: str, moment: str
) -> list[DeploymentRecord]:
    """Before the first `moment` somebody else has the lease; the record as it is then."""

    def taken(state: DeploymentRecord) -> DeploymentRecord:
        lease = {"holder": "somebody else", "until": 4e9}
        return replace(state, rollout=replace(state.rollout, lease=lease))

    def take(what: str) -> None:
        if moment in what and not found:
            found.append(record.change(fleet.house.project, target, MODEL, taken))

    def over(seconds: float) -> None:
        raise Over

    found: list[DeploymentRecord] = []
    fleet.at = take
    monkeypatch.setattr("adire_assets.serving.rollout.controller.time.sleep", over)
    return found


@pytest.mark.parametrize("decision", ["rollback", "promote"])
def test_who_loses_the_lease_while_it_decides_decides_nothing(
    two: Fleet, monkeypatch: pytest.MonkeyPatch, decision: str
) -> None:
    two.begin(3)
    two.decisions["us"] = decision
    before = lose_the_lease(two, monkeypatch, "us", "look us")
    with pytest.raises(Over):
        two.carry_out()
    assert before == [two.state("us")]
    assert (two.live(), two.quarantined(3)) == ([3, 2], None)
    assert two.routed("eu") and two.routed("us")


def test_a_former_holder_sends_nothing_back_on_other_targets(two: Fleet) -> None:
    two.begin(3)
    two.decisions["us"] = "rollback"
    former = stopped(two, two.carry_out, "look us")
    two.decisions["us"] = "promote"
    two.expire("us")
    two.carry_out()
    assert two.live() == [3, 3]
    assert resumed(two, former) == 0
    assert (two.live(), two.quarantined(3)) == ([3, 3], None)
    assert two.settled()


def test_a_former_holder_loads_nothing_into_a_idlethat_serves_something_else(one: Fleet) -> None:
    one.begin(2)
    former = stopped(one, one.carry_out, "loading into slot")
    one.expire()
    one.carry_out()
    for number in (3, 4):
        one.deploy(number)
    held = one.state().slots
    assert resumed(one, former) == 0
    assert (one.live(), one.state().slots) == ([4], held)
    assert one.settled()


@pytest.mark.parametrize(
    ("moment", "held"),
    [("loading into slot", [1]), ("Triton is asked", [1]), ("Triton loads", [1, 2])],
)
def test_who_loses_the_lease_changes_no_slot_though_the_same_release_goes_on_coming(
    one: Fleet, monkeypatch: pytest.MonkeyPatch, moment: str, held: list[int]
) -> None:
    one.begin(2)
    idle = one.slot_client(one.state().rollout.slot)
    assert release.installed(idle.folder, MODEL) == [1]
    lose_the_lease(one, monkeypatch, "eu", moment)
    with pytest.raises(Over):
        one.carry_out()
    assert release.installed(idle.folder, MODEL) == held
    assert one.state().rollout.stage == "loading"


def test_who_was_stopped_while_it_loads_takes_nothing_out_of_the_slot(one: Fleet) -> None:
    one.begin(2)
    former = stopped(one, one.carry_out, "Triton loads")
    # The traffic is safe at once; what the slot holds has to wait for who is at it.
    person = threading.Thread(target=one.roll_back)
    person.start()
    while one.state().rollout:
        person.join(0.01)
    assert one.live() == [1] and one.quarantined(2)
    assert resumed(one, former) == 0
    person.join(30)
    assert one.settled() and set(one.state().slots.values()) == {1}


def test_who_was_stopped_while_it_mends_renews_nothing_that_was_replaced(one: Fleet) -> None:
    slot_client = one.slot_client(one.state().active)
    (slot_client.folder / "ready.json").write_text("[]")  # its stub has died
    mending = stopped(one, lambda: one.deploy(1), "loading it again")
    one.deploy(2)
    one.deploy(3)
    assert resumed(one, mending) == 1
    assert one.live() == [3] and one.settled()


def test_who_was_stopped_while_it_restocks_leaves_the_next_release_alone(two: Fleet) -> None:
    restocking = stopped(two, two.roll_back, "is live on us")
    two.begin(3)
    two.carry_out()
    held = [two.state(name).slots for name in ("eu", "us")]
    assert resumed(two, restocking) == 0
    assert two.live() == [3, 3]
    assert [two.state(name).slots for name in ("eu", "us")] == held
    assert two.settled()


def test_who_was_stopped_while_it_restocks_puts_nothing_where_another_release_comes(
    two: Fleet,
) -> None:
    restocking = stopped(two, two.roll_back, "Triton is asked")
    idle = next(name for name in two.state().slots if name != two.state().active)
    before = release.installed(two.slot_client(idle).folder, MODEL)
    two.begin(3)
    assert resumed(two, restocking) == 0
    assert release.installed(two.slot_client(idle).folder, MODEL) == before == [2]
    two.carry_out()
    assert two.live() == [3, 3] and two.settled()


def test_routes_are_those_of_the_newest_record_however_late_they_are_written(two: Fleet) -> None:
    late = stopped(two, lambda: routing.publish(two.house.project, two.fleet, "eu"), "publish eu")
    record.change(
        two.house.project,
        "eu",
        MODEL,
        lambda state: state.with_live_release(1, "rollback", "a drill"),
    )
    assert not two.routed()
    assert resumed(two, late) == 0
    assert two.routed()


def test_a_idlethat_starts_holds_what_the_record_says_in_the_end(
    one: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot_client, install = one.slot_client("green"), release.install

    def late(*arguments: object) -> None:
        monkeypatch.setattr(release, "install", install)
        record.change(
            one.house.project,
            "eu",
            MODEL,
            lambda now: replace(now, slots={**now.slots, "green": 3}),
        )
        install(*arguments)

    monkeypatch.setattr(release, "install", late)
    assert slot.reconcile(one.house.project, "eu", "green", slot_client.folder) == [MODEL]
    assert release.installed(slot_client.folder, MODEL) == [3]


# --- MLflow ------------------------------------------------------------------------------------


def test_the_champion_is_the_newest_records_whoever_is_late(
    one: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "load_fleet", lambda project: one.fleet)
    told = Registry(monkeypatch)
    told.race(
        lambda: promotion.reconcile_aliases(one.house.project, MODEL),
        lambda: (one.begin(2), one.carry_out()),
    )
    assert told.aliases == {"champion": 2}


def test_the_tags_tell_the_last_word_on_an_approval(
    one: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adire_assets.gates.approvals.load_fleet", lambda project: one.fleet)
    wanted = one.house.releases[2]
    approve(one.house.project, wanted, "rounder", "ada")
    told = Registry(monkeypatch)
    told.race(
        lambda: approval_commands.reconcile_approval(one.house.project, wanted),
        lambda: revoke(one.house.project, wanted, "seen in daylight", "ada"),
    )
    assert set(told.tags.values()) == {None}


def test_a_challenger_that_has_become_champion_is_none(
    one: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "load_fleet", lambda project: one.fleet)
    told = Registry(monkeypatch)
    monkeypatch.setattr(
        registry, "delete_alias", lambda project, model, alias: told.aliases.pop(alias, None)
    )
    told.aliases["challenger"] = 1
    told.race(
        lambda: promotion.reconcile_aliases(one.house.project, MODEL),
        lambda: promotion.challenge(one.house.project, MODEL, 1),
    )
    assert told.aliases == {"champion": 1}


# --- quarantine --------------------------------------------------------------------------------


def test_a_lifted_quarantine_stays_lifted_until_the_next_decision(two: Fleet) -> None:
    project = two.house.project
    two.roll_back()
    record.lift_quarantine(project, MODEL, 2, "a mistake")
    record.sync_quarantine(project, MODEL, 2)  # by somebody who was held up
    assert two.quarantined(2) is None and "a mistake" in record.lift_reason(project, MODEL, 2)
    two.deploy(2)
    two.roll_back(reason="again")
    assert "again" in two.quarantined(2) and record.lift_reason(project, MODEL, 2) is None


def test_a_release_is_quarantined_though_its_file_was_never_written(two: Fleet) -> None:
    two.roll_back()
    file = two.house.project.home / "quarantine" / MODEL / "2.json"
    assert file.is_file()
    file.unlink()
    assert "too pale" in two.quarantined(2)
    with pytest.raises(UserError, match="is quarantined: too pale"):
        two.deploy(2)
    record.lift_quarantine(two.house.project, MODEL, 2, "looked again")
    assert two.quarantined(2) is None


def test_nobody_goes_back_to_a_release_that_was_sent_back(two: Fleet) -> None:
    two.deploy(3)
    record.quarantine(two.house.project, MODEL, 2, "seen in daylight")
    with pytest.raises(UserError, match="release 2 of light is quarantined: seen in daylight"):
        two.roll_back(to=2)
    assert two.live() == [3, 3] and two.settled()
    assert two.roll_back() == [1, 1]  # nor by going back to the one before
    assert two.settled()


def test_a_release_that_is_sent_back_meanwhile_does_not_begin(one: Fleet) -> None:
    def confirm() -> None:
        record.quarantine(one.house.project, MODEL, 2, "seen in daylight")

    with pytest.raises(UserError, match="seen in daylight"):
        rollout.begin(one.house.project, one.fleet, MODEL, 2, confirm)
    assert one.state().rollout is None
