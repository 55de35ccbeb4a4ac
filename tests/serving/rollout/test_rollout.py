"""Rollouts of real releases on two real Tritons behind the real Envoy."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from adire_assets.config.fleet import FleetConfig
from adire_assets.core.errors import UserError
from adire_assets.serving import record
from adire_assets.serving.connection import Endpoint, Unanswered
from adire_assets.serving.gateway import routing
from adire_assets.serving.gateway.protocols import kserve_client
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import controller, deployment, rollout
from adire_assets.serving.rollout.controller import Callbacks
from adire_assets.serving.slot_server import is_live
from tests.support.asking import generate
from tests.support.house import TARGET, House, awaited
from tests.support.light import MODEL, Behaviour, add_light


def decisions(state: DeploymentRecord) -> list[tuple[str, int, str]]:
    assert state.last_rollout
    return [(d["stage"], d["percent"], d["decision"]) for d in state.last_rollout["decisions"]]


def begun(lit: House, number: int, fleet: FleetConfig | None = None) -> threading.Thread:
    """A rollout in a thread of its own."""
    rollout.begin(lit.project, fleet or lit.fleet, MODEL, number)
    thread = threading.Thread(
        target=rollout.carry_out,
        args=(lit.project, fleet or lit.fleet, MODEL, Callbacks(lit.open_judge, print)),
    )
    thread.start()
    return thread


def canary_percent(lit: House) -> int:
    return lit.record.rollout.percent if lit.record.rollout else 0


def test_a_release_comes_by_steps_and_goes_back_without_one_failed_request(lit: House) -> None:
    lit.ensure_live(1)
    with lit.requests_all_along() as answers:
        state = lit.deploy(2)
        assert state.live == lit.serving() == 2
        assert decisions(state) == [
            ("checking", 0, "promote"),
            ("serving", 50, "promote"),
            ("serving", 100, "promote"),
        ]
        assert sorted(state.slots.values()) == [1, 2]
        awaited(lambda: answers[2] > 0, 30)
        first = answers[1]
        began = time.monotonic()
        state = lit.roll_back()
        assert (state.live, lit.serving()) == (1, 1)
        print(f"back after {time.monotonic() - began:.2f} s")
        awaited(lambda: answers[1] > first, 30)
    assert [entry["action"] for entry in state.history][-2:] == ["deploy", "rollback"]
    assert (state.history[-1]["from"], state.history[-1]["reason"]) == (2, "too pale")
    assert state.slots == dict.fromkeys(state.slots, 1)
    assert lit.differences() == []
    with pytest.raises(UserError, match="quarantined: too pale"):
        lit.deploy(2)


def test_who_asks_for_a_loaded_release_gets_it(lit: House) -> None:
    lit.ensure_live(1)
    lit.ensure_live(2)
    for number in (1, 2):
        answer = generate(lit.address, MODEL, "cloth", num_inference_steps=1, release=number)
        assert answer.release == number
    with pytest.raises(UserError, match="not loaded; loaded: 1, 2"):
        generate(lit.address, MODEL, "cloth", num_inference_steps=1, release=9)
    # A Triton speaks this one, and models of images are not asked by it.
    with pytest.raises(Unanswered, match="not asked by kserve-stream, but by kserve-grpc, kserve"):
        list(kserve_client.stream(Endpoint(lit.address), MODEL, {}, None, 20))


def test_going_back_to_a_release_that_is_gone_loads_it_first(lit: House) -> None:
    lit.ensure_live(1)
    lit.ensure_live(2)
    lit.ensure_live(add_light(lit))
    assert 1 not in lit.record.slots.values()
    with lit.requests_all_along():
        assert lit.roll_back(to=1).live == 1
    assert lit.serving() == 1


@pytest.mark.parametrize("strategy", ["blue_green", "shadow"])
def test_other_strategies_get_there_too(lit: House, strategy: str) -> None:
    lit.ensure_live(1)
    with lit.requests_all_along():
        state = lit.deploy(2, strategy=strategy)
    between = [("mirroring", 0, "promote")] if strategy == "shadow" else []
    assert decisions(state) == [
        ("checking", 0, "promote"),
        *between,
        ("serving", 100, "promote"),
    ]
    assert state.live == lit.serving() == 2


def test_a_release_that_does_not_load_leaves_the_old_one_serving(lit: House) -> None:
    lit.ensure_live(1)
    number = add_light(lit, Behaviour(loads=False))
    with lit.requests_all_along() as answers:
        with pytest.raises(UserError, match=f"could not load {MODEL}"):
            lit.deploy(number)
        assert set(answers) == {1}
    assert (lit.record.live, lit.serving(), lit.differences()) == (1, 1, [])
    assert lit.record.last_rollout["outcome"] == "failed"


def test_what_is_not_what_was_evaluated_gets_no_request(lit: House) -> None:
    lit.ensure_live(1)
    number = add_light(lit, Behaviour(noise=True))
    with lit.requests_all_along() as answers:
        state = lit.deploy(number)
        assert set(answers) == {1}
    assert (state.live, lit.serving()) == (1, 1)
    assert decisions(state) == [("checking", 0, "rollback")]
    assert "differ by" in record.quarantine_reason(lit.project, MODEL, number)


def test_images_that_are_worse_are_off_at_the_first_step(lit: House) -> None:
    lit.ensure_live(1)
    number = add_light(lit)
    lit.scores[number] = 0.2
    with lit.requests_all_along():
        state = lit.deploy(number)
    assert (state.live, lit.serving()) == (1, 1)
    assert decisions(state)[-1] == ("serving", 50, "rollback")
    assert "score a CLIP-S of 0.2" in record.quarantine_reason(lit.project, MODEL, number)
    assert set(state.slots.values()) == {1} and lit.differences() == []


def test_a_release_that_is_slower_than_what_runs_goes_back(lit: House) -> None:
    lit.ensure_live(1)
    number = add_light(lit, Behaviour(seconds=0.3))
    with lit.requests_all_along():
        state = lit.deploy(number, latency_increase_maximum=0.5, steps=[10, 100])
    assert (state.live, lit.serving()) == (1, 1)
    assert decisions(state)[-1] == ("serving", 10, "rollback")
    assert "took longer than" in record.quarantine_reason(lit.project, MODEL, number)


def test_a_release_that_hangs_goes_back_though_no_user_asks_it(lit: House, tmp_path: Path) -> None:
    lit.ensure_live(1)
    end = tmp_path / "end"
    number = add_light(lit, Behaviour(hangs_until=str(end), sound_answers=4))
    try:
        state = lit.deploy(number, latency_maximum_seconds=0.4, error_rate_maximum=0.05)
        assert (state.live, lit.serving()) == (1, 1)
    finally:
        end.touch()
    assert decisions(state)[-1] == ("serving", 50, "rollback")
    reason = record.quarantine_reason(lit.project, MODEL, number)
    assert "server faults" in reason or "took longer than" in reason


def test_two_runs_of_one_release_make_one_deployment(lit: House) -> None:
    lit.ensure_live(1)
    before = len(lit.record.history)
    states: list[DeploymentRecord] = []
    threads = [threading.Thread(target=lambda: states.append(lit.deploy(2))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [state.live for state in states] == [2, 2]
    assert len(lit.record.history) == before + 1


def test_a_target_with_other_software_gets_no_user_and_leaves_no_quarantine(lit: House) -> None:
    lit.ensure_live(1)
    asked = []

    def refusal(wanted: ReleaseRecord, software: Mapping | None) -> str:
        asked.append((wanted.number, software))
        return "compatibility: diffusers is another at serving"

    with pytest.raises(UserError, match="not deployed on local: compatibility: diffusers"):
        deployment.deploy(
            lit.project,
            lit.fleet,
            MODEL,
            2,
            verify=lambda candidate: None,
            callbacks=Callbacks(lit.open_judge, print, refusal=refusal),
        )
    assert asked == [(2, None)]
    assert (lit.record.live, lit.serving()) == (1, 1)
    assert record.quarantine_reason(lit.project, MODEL, 2) is None


def test_another_release_has_to_wait(lit: House) -> None:
    lit.ensure_live(1)
    endless = lit.configured(minimum_seconds=1000.0)
    thread = begun(lit, 2, endless)
    awaited(lambda: canary_percent(lit) == 50, 60)
    with pytest.raises(UserError, match="release 2 of light is on its way on local"):
        lit.deploy(add_light(lit))
    # A person ends it; whoever carries it out finds that out.
    lit.roll_back(reason="enough")
    thread.join(120)
    assert not thread.is_alive()
    assert (lit.record.live, lit.serving(), lit.record.rollout) == (1, 1, None)
    assert "enough" in record.quarantine_reason(lit.project, MODEL, 2)


def test_what_cannot_be_decided_is_held_until_a_person_says_so(lit: House) -> None:
    lit.ensure_live(1)
    undecided = lit.configured(
        error_rate_maximum=1e-6, maximum_seconds=0.5, replays_maximum=0, steps=[10, 100]
    )
    thread = begun(lit, 2, undecided)
    awaited(lambda: bool(lit.record.rollout and lit.record.rollout.held), 60)
    assert canary_percent(lit) == 10
    for percent in (10, 100):
        awaited(lambda now=percent: canary_percent(lit) == now, 30)
        assert rollout.approve(lit.project, undecided, MODEL, "looked at it")
        awaited(lambda now=percent: canary_percent(lit) != now, 30)
    thread.join(120)
    assert lit.record.live == 2
    assert any("a person said" in d["sentence"] for d in lit.record.last_rollout["decisions"])
    with pytest.raises(UserError, match="no release of light is waiting"):
        rollout.approve(lit.project, undecided, MODEL, "again")


CARRIER = """
import sys
from contextlib import nullcontext
from pathlib import Path
from adire_assets.core.project import Project
from adire_assets.config.yaml_file import load
from adire_assets.config.fleet import FleetConfig
from adire_assets.serving.rollout import controller, rollout

controller.LEASE_SECONDS = 3.0  # it is what the test waits for
project = Project(Path(sys.argv[1]), Path(sys.argv[2]))
fleet = FleetConfig.model_validate_json(sys.argv[3])
judge = nullcontext(lambda prompts, images: [1.0 + 0.01 * place for place in range(len(images))])
rollout.carry_out(project, fleet, "light", controller.Callbacks(lambda evaluation: judge, print))
"""


def test_a_release_that_is_quarantined_meanwhile_goes_back(lit: House) -> None:
    lit.ensure_live(1)
    undecided = lit.configured(
        error_rate_maximum=1e-6, maximum_seconds=0.5, replays_maximum=0, steps=[10, 100]
    )
    number = add_light(lit)
    thread = begun(lit, number, undecided)
    awaited(lambda: bool(lit.record.rollout and lit.record.rollout.held), 60)
    record.quarantine(lit.project, MODEL, number, "its data was taken down")
    thread.join(120)
    assert not thread.is_alive()
    assert (lit.record.live, lit.serving(), lit.record.rollout) == (1, 1, None)
    assert lit.record.last_rollout and "was taken down" in lit.record.last_rollout["reason"]


@pytest.mark.parametrize("stage", ["loading", "serving"])
def test_a_killed_controller_is_replaced_when_its_lease_has_run_out(
    lit: House, stage: str, clean_environment: dict[str, str]
) -> None:
    lit.ensure_live(1)
    slow = lit.configured(minimum_seconds=2.0)
    rollout.begin(lit.project, slow, MODEL, 2)
    code = [str(lit.project.root), str(lit.project.home), slow.model_dump_json()]
    process = subprocess.Popen([sys.executable, "-c", CARRIER, *code], env=clean_environment)
    awaited(
        lambda: bool((now := lit.record.rollout) and now.stage == stage and now.lease["holder"]),
        60,
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = lit.record.rollout.lease["holder"]
    with lit.requests_all_along():
        begun(lit, 2).join()
    assert (lit.record.live, lit.serving(), lit.differences()) == (2, 2, [])
    assert first.split(":")[1] == str(process.pid)


def test_who_has_lost_the_lease_changes_nothing(lit: House) -> None:
    lit.ensure_live(1)
    slow = lit.configured(minimum_seconds=1000.0)
    thread = begun(lit, 2, slow)
    awaited(lambda: canary_percent(lit) == 50, 60)

    def taken(state: DeploymentRecord) -> DeploymentRecord:
        lease = {"holder": "somebody else", "until": time.time() + 1000}
        return replace(state, rollout=replace(state.rollout, lease=lease))

    revision = record.change(lit.project, TARGET, MODEL, taken).revision
    late = controller.RolloutController(
        lit.project, slow, TARGET, MODEL, Callbacks(lit.open_judge, print)
    )
    with pytest.raises(controller.LeaseLost):
        late._finish(lit.record.rollout)
    assert lit.record.revision == revision
    assert lit.serving() in (1, 2) and lit.record.live == 1
    lit.roll_back()
    thread.join(120)


def test_a_killed_slot_comes_back_with_what_it_held(lit: House) -> None:
    lit.ensure_live(1)
    slot = lit.live_slot_client.name
    stubs = {process.pid for process in lit.processes(slot)}
    with lit.requests_all_along():
        lit.tritonserver(slot).kill()
        awaited(lambda: not is_live(lit.live_slot_client.config), 20)
        awaited(lambda: lit.differences() == [], 60)
    assert not stubs & {process.pid for process in lit.processes(slot)}
    assert lit.deploy(1).live == 1


def test_a_slot_that_starts_while_its_release_goes_back_comes_to_hold_what_is_recorded(
    lit: House,
) -> None:
    lit.ensure_live(1)
    thread = begun(lit, 2, lit.configured(minimum_seconds=1000.0))
    awaited(lambda: canary_percent(lit) == 50, 60)
    slot = lit.slot_client(lit.record.rollout.slot)
    killed = lit.tritonserver(slot.name)
    killed.kill()
    killed.wait(10)
    # It has read the record, which names the release still, and does not answer yet.
    awaited(lambda: any("tritonserver" in one.name() for one in lit.processes(slot.name)), 30)
    lit.roll_back()
    thread.join(120)
    assert lit.differences() == []
    assert slot.ready(MODEL) == {1}


def test_a_release_whose_stub_died_is_loaded_again(lit: House) -> None:
    lit.ensure_live(1)
    for process in lit.processes(lit.live_slot_client.name):
        if "stub" in process.name():
            process.kill()
    awaited(lambda: lit.differences() != [], 20)
    assert lit.deploy(1).live == 1
    assert lit.differences() == []


def test_a_record_that_the_gateway_was_not_told_of_is_seen_and_mended(lit: House) -> None:
    lit.ensure_live(2)
    lit.ensure_live(1)
    other = next(number for number in lit.record.slots.values() if number != 1)
    record.change(
        lit.project,
        TARGET,
        MODEL,
        lambda state: state.with_live_release(other, "rollback", "a drill"),
    )
    assert lit.differences() == ["the gateway of local does not route light as recorded"]
    routing.publish(lit.project, lit.fleet, TARGET)
    assert lit.differences() == [] and lit.serving() == other


@pytest.mark.parametrize(
    ("history", "to", "sentence"),
    [
        ([], None, "nothing of light is live"),
        ([1], None, "no release of light to go back to"),
        ([2, 1], 1, "is the one that is live"),
        ([2, 1], 9, "was never live"),
    ],
)
def test_a_rollback_that_leads_nowhere_says_why(
    lit: House, history: list[int], to: int | None, sentence: str
) -> None:
    target = f"target_{len(history)}_{to}"
    fleet = lit.fleet.model_copy(update={"targets": {target: lit.fleet.targets[TARGET]}})
    entries = [{"number": number} for number in history]
    last = history[-1] if history else None
    written = record.change(
        lit.project, target, MODEL, lambda state: replace(state, live=last, history=entries)
    )
    with pytest.raises(UserError, match=sentence):
        rollout.rollback(lit.project, fleet, MODEL, to, "a reason", print)
    assert record.read(lit.project, target, MODEL) == written
    assert record.quarantine_reason(lit.project, MODEL, 1) is None


def test_who_ends_a_rollout_that_is_over_takes_nothing_away(lit: House) -> None:
    lit.ensure_live(1)
    before = lit.record
    with pytest.raises(UserError, match="release 2 of light is no longer in a rollout"):
        rollout.rollback(lit.project, lit.fleet, MODEL, None, "too late", print, only=2)
    with pytest.raises(UserError, match="no release of light is waiting"):
        rollout.approve(lit.project, lit.fleet, MODEL, "too late", only=2)
    assert lit.record == before


def test_a_quarantine_is_lifted_with_a_reason_only(lit: House) -> None:
    number = add_light(lit)
    record.quarantine(lit.project, MODEL, number, "looks wrong")
    with pytest.raises(UserError, match="needs a reason"):
        record.lift_quarantine(lit.project, MODEL, number, " ")
    record.lift_quarantine(lit.project, MODEL, number, "looked at again")
    with pytest.raises(UserError, match="not quarantined"):
        record.lift_quarantine(lit.project, MODEL, number, "twice")
    with pytest.raises(UserError, match="needs a reason"):
        rollout.rollback(lit.project, lit.fleet, MODEL, None, " ", print)


def test_a_gateway_that_is_down_is_named(lit: House) -> None:
    gone = lit.fleet.targets[TARGET].gateway.model_copy(update={"admin_port": 1})
    target = lit.fleet.targets[TARGET].model_copy(update={"gateway": gone})
    fleet = lit.fleet.model_copy(update={"targets": {"nowhere": target}})
    with pytest.raises(UserError, match=r"gateway of nowhere does not answer.*adire up"):
        deployment.deploy(
            lit.project,
            fleet,
            MODEL,
            1,
            verify=lambda candidate: None,
            callbacks=Callbacks(lit.open_judge, print),
        )
