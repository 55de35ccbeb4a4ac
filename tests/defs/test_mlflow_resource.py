"""What MLflow says after Dagster steps that succeed, fail, are interrupted or run side by side."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.defs.resources import INHERITED, MlflowTracking
from adire_assets.tracking import backend, runs

KEY = "a" * 64
OTHER = "b" * 64


def materialize(project: Project, body, instance: dg.DagsterInstance | None = None):
    """One asset that calls `body(run, context)` inside the run of KEY."""

    @dg.asset
    def lora_weights(context: dg.AssetExecutionContext, mlflow: MlflowTracking) -> None:
        with mlflow.runner(context, "indigo")(KEY) as run:
            body(run, context)

    return dg.materialize(
        [lora_weights],
        resources={"mlflow": MlflowTracking(project_root=str(project.root))},
        raise_on_error=False,
        instance=instance,
    )


def mlflow_runs(project: Project) -> dict:
    """Recipe key -> MLflow run; every run of the experiment is one of them."""
    from mlflow import MlflowClient

    client = MlflowClient(backend.tracking_uri(project))
    experiment = client.get_experiment_by_name("indigo")
    found = client.search_runs([experiment.experiment_id])
    by_key = {run.data.tags[runs.RECIPE_KEY]: run for run in found}
    assert len(by_key) == len(found)
    return by_key


def assert_no_trace() -> None:
    import mlflow

    assert mlflow.active_run() is None
    assert not set(INHERITED) & set(os.environ)


def test_definitions_load_without_mlflow(clean_environment):
    code = (
        "import sys, adire_assets.defs.resources as r; r.MlflowTracking(project_root='.');"
        "print([m for m in ('mlflow', 'dagster_mlflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_training_and_evaluation_log_into_one_run(mlflow_project, tmp_path):
    picture = tmp_path / "contact_sheet.png"
    picture.write_bytes(b"png")
    ids = []

    def train(run, context):
        ids.append(run.mlflow_run_id)
        run.log_params({"rank": 4, "learning_rate": 1e-4})
        run.log_text("from MLflow itself", "note.txt")

    def evaluate(run, context):
        ids.append(run.mlflow_run_id)
        run.log_params({"rank": 4})
        run.log_metrics({"clip_s": 0.81})
        run.log_artifact(str(picture), "evaluation")
        run.set_tags({"dagster": context.run.run_id})

    assert materialize(mlflow_project, train).success
    assert_no_trace()
    evaluation = materialize(mlflow_project, evaluate)
    assert evaluation.success
    assert_no_trace()
    run = mlflow_runs(mlflow_project)[KEY]
    assert ids == [run.info.run_id] * 2
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"indigo-{KEY[:12]}"
    assert run.data.params == {"rank": "4", "learning_rate": "0.0001"}
    assert run.data.metrics == {"clip_s": 0.81}
    assert run.data.tags["dagster_run_id"] == evaluation.run_id
    folder = mlflow_project.home / "mlartifacts" / "indigo" / run.info.run_id / "artifacts"
    assert (folder / "evaluation" / "contact_sheet.png").read_bytes() == b"png"
    assert (folder / "note.txt").is_file()


def test_a_failed_step_is_failed_and_its_rerun_finishes_the_same_run(mlflow_project):
    def fail(run, context):
        raise UserError("the dataset has 3 images and needs 10")

    def stop(run, context):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)

    assert not materialize(mlflow_project, fail).success
    assert_no_trace()
    failed = mlflow_runs(mlflow_project)[KEY]
    assert failed.info.status == "FAILED"
    assert not materialize(mlflow_project, stop).success
    assert_no_trace()
    assert mlflow_runs(mlflow_project)[KEY].info.status == "KILLED"
    assert materialize(mlflow_project, lambda run, context: None).success
    run = mlflow_runs(mlflow_project)[KEY]
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")


def test_a_run_left_by_a_killed_process_is_ended_by_the_next_step(mlflow_project):
    left = runs.training_run(mlflow_project, "indigo", OTHER)
    assert materialize(mlflow_project, lambda run, context: None).success
    found = mlflow_runs(mlflow_project)
    assert found[OTHER].info.run_id == left
    assert {key: run.info.status for key, run in found.items()} == {
        OTHER: "KILLED",
        KEY: "FINISHED",
    }


def test_an_unreachable_server_fails_the_step_with_its_sentence(mlflow_project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    result = materialize(mlflow_project, lambda run, context: None)
    (failure,) = result.get_step_failure_events()
    assert "server at http://127.0.0.1:1 cannot be used" in str(failure.step_failure_data.error)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:1"


def side_by_side() -> dg.JobDefinition:
    """Two steps that meet inside the run of KEY, and one that fails in the run of OTHER."""

    def step(name: str, other: str) -> dg.AssetsDefinition:
        @dg.asset(name=name)
        def meet(context: dg.AssetExecutionContext, mlflow: MlflowTracking) -> None:
            folder = Path(mlflow.project_root)
            with mlflow.run(context, model="indigo", recipe_key=KEY) as run:
                run.log_metrics({name: 1.0})
                (folder / name).touch()
                end = time.monotonic() + 500  # a busy machine starts slowly
                while not (folder / other).exists():
                    assert time.monotonic() < end, f"{other} never came"
                    time.sleep(0.02)

        return meet

    @dg.asset
    def fails(context: dg.AssetExecutionContext, mlflow: MlflowTracking) -> None:
        with mlflow.run(context, model="indigo", recipe_key=OTHER):
            raise ValueError("no")

    assets = [step("left", "right"), step("right", "left"), fails]
    mlflow = MlflowTracking(project_root=os.environ["ADIRE_PROJECT"])
    # One process imports these, and the steps are its children.
    start = {"forkserver": {"preload_modules": ["mlflow", "dagster"]}}
    executor = dg.multiprocess_executor.configured({"max_concurrent": 3, "start_method": start})
    return dg.Definitions(
        assets=assets,
        jobs=[dg.define_asset_job("job", executor_def=executor)],
        resources={"mlflow": mlflow},
    ).resolve_job_def("job")


def test_parallel_steps_share_one_run_and_no_exit_changes_a_status(mlflow_project, monkeypatch):
    monkeypatch.setenv("ADIRE_PROJECT", str(mlflow_project.root))
    job = ReconstructableJob.for_file(__file__, side_by_side.__name__)
    with dg.instance_for_test() as instance:
        result = dg.execute_job(job, instance=instance)
        failed = [event.step_key for event in result.get_step_failure_events()]
    assert failed == ["fails"]
    found = mlflow_runs(mlflow_project)
    assert {key: run.info.status for key, run in found.items()} == {
        KEY: "FINISHED",
        OTHER: "FAILED",
    }
    assert found[KEY].data.metrics == {"left": 1.0, "right": 1.0}
