"""A rollback over several targets happens everywhere or nowhere, whoever is killed meanwhile."""

import signal
from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest

from adire_assets.core.errors import UserError
from adire_assets.defs.rollouts import rollout_job, rollout_sensor
from adire_assets.ops import operations
from adire_assets.serving import record
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.rollout import deployment, rollout
from tests.support.light import MODEL
from tests.support.stand_ins import (
    Fleet,
    Registry,
    killed,
    resumed,
    stopped,
)

CONFIG = """
data: {path: data/light, instance_prompt: cloth}
family: diffusion
base_model: {source: base}
evaluation: {judge: {source: judge}}
"""


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
    with pytest.raises(UserError, match="release 1 of light did not come back on us, where"):
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
