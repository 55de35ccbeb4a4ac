"""A run that a person stopped stays stopped: the sensor starts it no more for the same state."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from adire_assets.config import held_weights
from adire_assets.defs import sensors
from adire_assets.line import changes
from adire_assets.line.changes import MODEL_TAG, STATE_TAG
from tests.support.shop import MODEL, Shop

STOPPED, FAILED = dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A project whose state is what `changed` says."""
    monkeypatch.setattr(changes, "code_and_libraries", lambda *_: {})
    monkeypatch.setattr(held_weights, "known", lambda *_: None)
    changed(monkeypatch, "first")
    return Shop(tmp_path)


def changed(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(changes, "source_keys", lambda *_: {"training_config": key})


def tick(shop: Shop, instance: dg.DagsterInstance) -> str:
    """What the sensor says; "" when it starts a run."""
    sensor = sensors.model_sensor(shop.project, MODEL, changes.line_job(MODEL))
    with dg.build_sensor_context(instance=instance) as context:
        answer = sensor.evaluate_tick(context)
    return "" if answer.run_requests else str(answer.skip_message)


def ended(
    shop: Shop, instance: dg.DagsterInstance, status: dg.DagsterRunStatus, *, by_hand: bool = False
) -> None:
    """A run of the state as it is now ends so; `by_hand`: it does not tell its state."""
    state = {} if by_hand else {STATE_TAG: changes.state_of(shop.project, MODEL).digest}
    tags = {MODEL_TAG: MODEL, **state}
    instance.add_run(dg.DagsterRun(changes.line_job(MODEL), tags=tags, status=status))


def test_it_is_left_alone_until_something_changes(
    shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tick(shop, instance) == ""
    ended(shop, instance, STOPPED)
    assert "was stopped; start it again in the studio or with" in tick(shop, instance)
    changed(monkeypatch, "second")
    assert tick(shop, instance) == ""


def test_one_that_was_interrupted_otherwise_is_tried_again(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    ended(shop, instance, FAILED)
    assert "next attempt in" in tick(shop, instance)


def test_one_that_does_not_tell_its_state_has_that_of_the_run_before_it(
    shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(shop, instance, FAILED)
    ended(shop, instance, STOPPED, by_hand=True)
    assert "was stopped; start it again" in tick(shop, instance)
    monkeypatch.setattr(changes, "code_and_libraries", lambda *_: {"code": "other"})
    assert tick(shop, instance) == ""


def test_a_killed_run_is_marked_though_another_was_started_since(
    shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOCKED_WITHIN_SECONDS", 0)
    ended(shop, instance, dg.DagsterRunStatus.STARTED)
    ended(shop, instance, dg.DagsterRunStatus.STARTING)
    assert "is under way" in tick(shop, instance)
    latest, killed = instance.get_runs()
    assert latest.status == dg.DagsterRunStatus.STARTING
    assert killed.status == dg.DagsterRunStatus.FAILURE


def test_one_that_does_not_tell_its_state_stops_nothing_that_is_new(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    ended(shop, instance, STOPPED, by_hand=True)
    assert tick(shop, instance) == ""
