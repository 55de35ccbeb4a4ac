"""What is told of a run, and which one may be stopped, by the log that a real Dagster serves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus
from dagster._core.execution.plan.objects import StepFailureData
from dagster_shared.error import SerializableErrorInfo

from adire_assets.core.errors import UserError
from adire_assets.line import train
from adire_assets.line.changes import MODEL_TAG, WHY_TAG
from adire_assets.ops import dagster_runs, training
from adire_assets.serving.fleet.processes import dagster_home
from adire_assets.tracking import followed, runs
from tests.support import dagster_up
from tests.support.fleets import make_fleet, write_fleet
from tests.support.shop import MODEL, Shop

ROOT = Path(__file__).parents[2]
LINE, DEPLOYMENT, BY_HAND = f"{MODEL}_line", f"{MODEL}_deployment", "__ASSET_JOB"
STARTED, CANCELED = DagsterRunStatus.STARTED, DagsterRunStatus.CANCELED


class House(Shop):
    """A project whose Dagster answers; its runs are as a test says."""

    instance: dg.DagsterInstance

    def run(self, status: DagsterRunStatus, job: str = LINE, *steps: str) -> dg.DagsterRun:
        """The latest run; these of its steps have begun."""
        run = dg.DagsterRun(job, tags={MODEL_TAG: MODEL, WHY_TAG: "a test"}, status=status)
        self.instance.add_run(run)
        for step in steps:
            self.say(run, DagsterEventType.STEP_START, step)
        return run

    def say(
        self,
        run: dg.DagsterRun,
        kind: DagsterEventType,
        step: str | None = None,
        *,
        error: str | None = None,
        check: dg.AssetCheckEvaluation | None = None,
        message: str | None = None,
    ) -> None:
        wrong = StepFailureData(SerializableErrorInfo(f"{error}: no", [], error), None)
        event = DagsterEvent(
            kind.value,
            run.job_name,
            step_key=step and f"{MODEL}__{step}",
            event_specific_data=wrong if error else check,
            message=message,
        )
        self.instance.report_dagster_event(event, run.run_id)

    def trained(self, recipe_key: str) -> str:
        """The latest training, of this adapter; its id."""
        return runs.training_run(self.project, MODEL, recipe_key)

    def curve(self) -> training.Curve:
        found = training.view(self.project, MODEL).curve
        assert found is not None
        return found

    def view(self) -> training.RunView:
        found = training.view(self.project, MODEL).run
        assert found is not None
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("training"))
    fleet = make_fleet()
    write_fleet(house.project, fleet)
    with house.project.model_file(MODEL).open("a") as file:
        file.write("require_clean_commit: false\n")
    (house.project.root / "triton_models").symlink_to(ROOT / "triton_models")
    (house.project.root / "dagster_defs.py").write_text((ROOT / "dagster_defs.py").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with (
            dg.DagsterInstance.from_config(str(dagster_home(house.project))) as instance,
            dagster_up.running(house.project, fleet, "dagster-webserver"),
        ):
            house.instance = instance
            yield house


@pytest.fixture
def house(served: House) -> Iterator[House]:
    yield served
    for run in served.instance.get_runs():
        served.instance.delete_run(run.run_id)


@pytest.mark.parametrize(
    ("status", "job", "steps", "why"),
    [
        (STARTED, BY_HAND, ("lora_weights",), "press Ctrl-C at the terminal"),
        (STARTED, DEPLOYMENT, (), "deploys an approved release"),
        (STARTED, LINE, ("deployed_model",), "brings its release live"),
        (DagsterRunStatus.CANCELING, LINE, ("lora_weights",), "is stopping already"),
        (DagsterRunStatus.STARTING, LINE, (), "is just starting"),
    ],
)
def test_a_run_that_cannot_be_stopped_here_is_left_as_it_is(
    house: House, status: DagsterRunStatus, job: str, steps: tuple[str, ...], why: str
) -> None:
    run = house.run(status, job, *steps)
    assert not house.view().can_stop
    with pytest.raises(UserError, match=why):
        training.stop(house.project, MODEL, run.run_id, "ada")
    assert house.instance.get_run_by_id(run.run_id).status == status


def test_one_of_the_whole_line_can_be_stopped(house: House) -> None:
    house.run(STARTED, LINE, "lora_weights")
    assert house.view().can_stop


def test_an_older_run_that_is_under_way_is_told_and_keeps_others_from_starting(
    house: House,
) -> None:
    older = house.run(STARTED)
    house.run(DagsterRunStatus.SUCCESS, BY_HAND)
    assert house.view().id == older.run_id
    with pytest.raises(UserError, match=f"run {older.run_id[:8]} of {MODEL} .* is under way"):
        training.start(house.project, MODEL, "ada")


def test_a_step_that_was_interrupted_is_stopped_and_no_problem(house: House) -> None:
    run = house.run(CANCELED, LINE, "lora_weights")
    house.say(
        run,
        DagsterEventType.STEP_FAILURE,
        "lora_weights",
        error="DagsterExecutionInterruptedError",
    )
    found = house.view()
    assert found.parts == (("training", "stopped"),)
    assert found.problems == ()


def test_a_step_of_a_run_that_was_killed_is_stopped_and_the_run_says_why(house: House) -> None:
    run = house.run(STARTED, LINE, "dataset")
    assert ("data set", "now") in house.view().parts
    house.instance.report_run_failed(run, "The process of this run was killed.")
    found = house.view()
    assert found.parts == (("data set", "stopped"),)
    assert found.problems == ("The process of this run was killed.",)
    assert " failed" in found.sentence


def test_only_a_gate_or_a_rollout_refuses(house: House) -> None:
    for asset, name, refused in (
        ("promotion_verdict", "clip_s", True),
        ("deployed_model", "rollout", True),
        ("triton_repository", "serves_what_was_evaluated", False),
    ):
        run = house.run(DagsterRunStatus.FAILURE)
        check = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey([MODEL, asset]),
            check_name=name,
            passed=False,
            description=f"{name} is no good",
        )
        house.say(run, DagsterEventType.ASSET_CHECK_EVALUATION, asset, check=check)
        found = house.view()
        assert ("was refused" in found.sentence) == refused
        assert [one.endswith(f"{name} is no good") for one in found.problems] == [True]
        assert ("refused by the gate" in found.problems[0]) == (asset == "promotion_verdict")


@pytest.mark.parametrize("asset", ["triton_repository", "deployed_model"])
def test_a_run_that_made_or_deployed_a_release_names_it(house: House, asset: str) -> None:
    made = house.release(1, house.evaluation("monday", 0.8))
    house.bring_live(1)
    run = house.run(DagsterRunStatus.SUCCESS, DEPLOYMENT, asset)
    name = f"references/{run.run_id}/{MODEL}/{asset}"
    house.project.records.change(name, lambda _: made.repository)
    assert "has ended: release 1 is live on local" in house.view().sentence


def test_a_run_is_told_with_the_loss_of_its_own_adapter(house: House) -> None:
    house.trained("taken")
    other = house.trained("other")
    run = house.run(STARTED, LINE, "lora_weights")
    assert training.view(house.project, MODEL).curve is None
    runs.log_tags(house.project, other, {followed.DAGSTER_RUN: run.run_id})
    assert house.curve().recipe_key == "other"  # what it works on
    name = f"references/{run.run_id}/{MODEL}/lora_weights"
    house.project.records.change(name, lambda _: {"key": "taken"})
    assert (house.curve().recipe_key, house.curve().other) == ("taken", False)


def test_the_loss_of_another_run_is_said_to_be_that_and_promises_nothing(house: House) -> None:
    own = house.trained("latest")
    (train.work_folder(house.project, "latest") / "step-10").mkdir(parents=True)
    run = house.run(CANCELED)
    assert house.curve().sentence() == (
        "The latest training, not of this run: No step is reported yet."
    )
    assert "checkpoint" not in house.view().sentence
    runs.log_tags(house.project, own, {followed.DAGSTER_RUN: run.run_id})
    assert house.curve().sentence() == "No step is reported yet."
    assert "goes on from the checkpoint at step 10" in house.view().sentence


def test_a_step_whose_samples_are_gone_hides_no_other(house: House, tmp_path: Path) -> None:
    run_id = house.trained("shown")
    (tmp_path / "1.png").write_bytes(b"picture")
    where = f"{runs.VALIDATION}/step-000002"
    runs.log_artifacts(house.project, run_id, [tmp_path / "1.png"], where)
    curve = replace(house.curve(), shown=(1, 2))
    [(step, found)] = training.shown(house.project, MODEL, curve)
    assert step == 2
    assert [one.content.read_bytes() for one in found] == [b"picture"]
    with pytest.raises(UserError, match="has no such training"):
        training.samples_at(house.project, MODEL, "0" * 32, 2)


def test_the_run_is_told_of_when_mlflow_does_not_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.run(STARTED)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    found = training.view(house.project, MODEL)
    assert found.run is not None
    assert "the MLflow server at http://127.0.0.1:9 cannot be used" in str(found.trouble)


def test_a_dagster_that_is_slow_is_said_to_be(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_runs, "SECONDS", 0.0001)
    with pytest.raises(UserError, match="did not answer within"):
        training.view(house.project, MODEL)
