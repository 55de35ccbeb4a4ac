"""What is done outside the record by a holder that was stopped, or a process that was killed.

Tritons and Envoys are stand-ins (`tests.support.stand_ins`); the processes, their locks and files
are real.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from adire_assets.core.errors import UserError
from adire_assets.defs.rollouts import rollout_job, rollout_sensor
from adire_assets.gates import approval_commands, promotion
from adire_assets.gates.approvals import approve, revoke
from adire_assets.ops import operations
from adire_assets.serving import record, release
from adire_assets.serving.fleet import slot
from adire_assets.serving.gateway import routing
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.rollout import deployment, rollout
from adire_assets.tracking import registry
from tests.support.house import House
from tests.support.light import MODEL
from tests.support.stand_ins import Fleet, killed, released, resumed, stand_in_fleet, stopped

CONFIG = """
data: {path: data/light, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation: {judge: {source: judge}}
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return released(tmp_path_factory.mktemp("fencing"))


@pytest.fixture
def one(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Release 1 is live on one target."""
    with stand_in_fleet(house, tmp_path, monkeypatch, [1], ["eu"]) as made:
        yield made


@pytest.fixture
def two(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Release 2 is live on two targets, and 1 was before."""
    with stand_in_fleet(house, tmp_path, monkeypatch, [1, 2], ["eu", "us"]) as made:
        yield made


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


class Registry:
    """What MLflow is told last; the first to tell it something is held up until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aliases: dict[str, int] = {}
        self.tags: dict[str, str | None] = {}
        self.came, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(registry, "set_alias", self.set_alias)
        monkeypatch.setattr(registry, "delete_alias", lambda project, model, alias: None)
        monkeypatch.setattr(registry, "aliases", lambda project, model: dict(self.aliases))
        monkeypatch.setattr(registry, "tag_release", self.tag_release)

    def wait(self) -> None:
        if not self.came.is_set():
            self.came.set()
            self.go.wait(30)

    def set_alias(self, project: object, model: str, alias: str, number: int) -> None:
        self.wait()
        self.aliases[alias] = number

    def tag_release(self, project: object, model: str, number: int, tags: dict) -> None:
        self.wait()
        self.tags.update(tags)

    def race(self, first: Callable[[], None], meanwhile: Callable[[], None]) -> None:
        """`first` is held up on its way to MLflow; then come `meanwhile` and `first` again."""

        def second() -> None:
            meanwhile()
            first()

        threads = [threading.Thread(target=one) for one in (first, second)]
        threads[0].start()
        assert self.came.wait(30)
        threads[1].start()
        threads[1].join(0.3)  # where nothing holds it up it is through by now
        self.go.set()
        for thread in threads:
            thread.join(30)


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


# --- one plan over several targets -------------------------------------------------------------


def finishers(fleet: Fleet) -> list[Callable[[], object]]:
    return [fleet.roll_back, fleet.carry_out, fleet.finish, lambda: fleet.deploy(1)]


def test_a_rollback_that_is_killed_anywhere_is_done_everywhere_or_nowhere(two: Fleet) -> None:
    began, writes = 0, 0
    while killed(lambda: two.roll_back(reason="killed"), writes):
        if two.quarantined(2):
            began += 1
            assert two.live() == [1, 1]
            finishers(two)[writes % 4]()
            assert two.live() == [1, 1] and two.settled()
            record.lift_quarantine(two.house.project, MODEL, 2, "the next try")
            two.deploy(2)
        assert two.live() == [2, 2] and two.settled()
        writes += 1
    assert two.live() == [1, 1] and two.settled()
    assert began >= 5 and writes > began


def test_a_release_that_is_sent_back_by_who_is_killed_goes_back_everywhere(two: Fleet) -> None:
    two.decisions["us"] = "rollback"

    def sent_back() -> None:
        two.deploy(3)

    outcomes, writes = set(), 0
    while killed(sent_back, writes):
        for name in ("eu", "us"):
            if two.state(name).rollout:
                two.expire(name)
        two.carry_out()
        assert two.settled()
        outcomes.add((*two.live(), bool(two.quarantined(3))))
        if two.quarantined(3):
            record.lift_quarantine(two.house.project, MODEL, 3, "the next try")
        writes += 3
    assert outcomes == {(2, 2, False), (2, 2, True)}
    assert two.live() == [2, 2] and two.settled()


def test_a_rollout_begins_on_every_target_or_on_none(two: Fleet) -> None:
    seen, writes = [], 0
    while killed(lambda: two.begin(3), writes):
        seen.append([bool(two.state(name).rollout) for name in ("eu", "us")])
        if seen[-1] == [True, True]:
            two.roll_back(reason="the next try")
            record.lift_quarantine(two.house.project, MODEL, 3, "the next try")
        writes += 1
    assert [False, False] in seen and [True, True] in seen and len(seen) >= 3
    assert all(one[0] == one[1] for one in seen)


def test_a_release_that_has_to_be_loaded_first_is_loaded_by_who_comes_next(two: Fleet) -> None:
    two.deploy(3)
    assert 1 not in two.state().slots.values()
    loading = stopped(two, lambda: two.roll_back(to=1), "Triton loads")
    assert two.live() == [3, 3] and two.quarantined(3) is None
    assert (
        record.read_plan(two.house.project, MODEL).pending
        == f"{MODEL} goes back to release 1: too pale"
    )
    resumed(two, loading, signal.SIGKILL)
    for name in ("eu", "us"):
        two.expire(name)
    two.carry_out()
    assert two.live() == [1, 1] and "too pale" in two.quarantined(3)
    assert two.settled()


def test_an_earlier_release_that_does_not_load_on_one_target_leaves_that_as_it_was(
    two: Fleet,
) -> None:
    two.deploy(3)
    two.broken.add(("us", 1))
    with pytest.raises(UserError, match="release 1 of light did not load on us, where release 3"):
        two.roll_back(to=1)
    assert two.live() == [1, 3]
    assert record.read_plan(two.house.project, MODEL).pending is None


def test_a_rollback_of_what_is_on_its_way_leaves_the_other_targets_alone(two: Fleet) -> None:
    two.begin(3)
    record.change(two.house.project, "us", MODEL, lambda now: now.without_rollout("cancelled", ""))
    assert two.roll_back() == [2, 2]
    assert two.quarantined(2) is None and two.quarantined(3)


def test_a_rollback_that_leads_nowhere_on_one_target_changes_none(two: Fleet) -> None:
    record.change(two.house.project, "us", MODEL, lambda now: replace(now, live=None))
    before = two.state()
    with pytest.raises(UserError, match="nothing of light is live on us"):
        two.roll_back()
    assert two.state() == before and two.quarantined(2) is None


def test_a_plan_is_carried_over_by_the_next_one(two: Fleet) -> None:
    former = stopped(two, two.roll_back, "is live on eu")
    assert record.read_plan(two.house.project, MODEL).pending
    two.begin(3)
    assert "goes back: too pale" in record.read_plan(two.house.project, MODEL).pending
    two.carry_out()
    assert resumed(two, former) == 0
    assert two.live() == [3, 3] and two.settled()


def test_an_older_plan_changes_no_record(two: Fleet) -> None:
    older = record.read_plan(two.house.project, MODEL)  # the rollout of release 2
    two.roll_back()
    now = two.state()
    assert older.token < now.token
    assert replace(older, kept=False).applied(now) == now


def test_who_follows_is_told_before_a_plan_counts_as_finished(two: Fleet) -> None:
    def unreachable() -> None:
        raise UserError("MLflow does not answer")

    with pytest.raises(UserError, match="MLflow"):
        rollout.rollback(two.house.project, two.fleet, MODEL, None, "pale", print, unreachable)
    assert two.live() == [1, 1] and record.read_plan(two.house.project, MODEL).pending
    told: list[DeploymentRecord] = []
    rollout.finish(two.house.project, two.fleet, MODEL, print, lambda: told.append(two.state()))
    assert [state.live for state in told] == [1] and two.settled()


def test_an_unfinished_rollback_is_shown_and_the_sensor_finishes_it(
    two: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = two.house.project.root / "configs"
    (configs / "fleet.yaml").write_text(two.fleet.model_dump_json(exclude_none=True))
    (configs / "models" / f"{MODEL}.yaml").write_text(CONFIG)
    monkeypatch.setattr(operations, "stale", lambda *_: [])
    monkeypatch.setattr(deployment, "target_statuses", lambda *_: [])
    told = Registry(monkeypatch)
    told.came.set()
    dead = stopped(two, two.roll_back, "is live on eu")
    resumed(two, dead, signal.SIGKILL)
    job = rollout_job(two.house.project, MODEL)
    sensor = rollout_sensor(two.house.project, MODEL, job)

    def status() -> str:
        return "\n".join(operations.status(two.house.project))

    def tick(instance: dg.DagsterInstance) -> dg.RunRequest | str:
        with dg.build_sensor_context(instance=instance) as context:
            answer = sensor.evaluate_tick(context)
        return answer.run_requests[0] if answer.run_requests else answer.skip_message

    assert "light goes back: too pale; the sensor light_rollout finishes it" in status()
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(instance) == "no rollout was left"  # its process may be at it
        monkeypatch.setattr("adire_assets.defs.rollouts.FINISHED_WITHIN_SECONDS", -1)
        request = tick(instance)
        assert "light goes back: too pale" in request.tags["adire/why"]
        job.execute_in_process(instance=instance, tags=request.tags)
        assert tick(instance) == "no rollout was left"
    assert told.aliases == {"champion": 1} and "unfinished since" not in status()
    monkeypatch.undo()
    assert record.read_plan(two.house.project, MODEL).pending is None and two.live() == [1, 1]
