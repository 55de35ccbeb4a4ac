"""The sensor deploys what was approved, once, and says why when it does not."""

import json

import dagster as dg
import pytest

from adire_assets.defs.assets import model_assets
from adire_assets.defs.resources import ChildProcesses, MlflowTracking, ReferenceIOManager
from adire_assets.defs.sensors import approval_sensor, deployment_job
from adire_assets.gates import approvals
from tests.support.approvals import approve, go_live, hold, waiting
from tests.support.house import House
from tests.support.light import MODEL


@dg.op(config_schema={"succeeds": bool})
def end(context: dg.OpExecutionContext) -> None:
    if not context.op_config["succeeds"]:
        raise dg.Failure("the gateway does not answer", allow_retries=False)


@dg.job
def stand_in() -> None:
    end()


def tick(house: House, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """The run that the sensor requests, or why none."""
    sensor = approval_sensor(house.project, MODEL, "light_deployment")
    with dg.build_sensor_context(instance=instance) as context:
        answer = sensor.evaluate_tick(context)
    return answer.run_requests[0] if answer.run_requests else answer.skip_message


def carry_out(instance: dg.DagsterInstance, request: dg.RunRequest, succeeds: bool) -> None:
    config = {"ops": {"end": {"config": {"succeeds": succeeds}}}}
    tags = {"adire/model": MODEL, **request.tags}
    stand_in.execute_in_process(
        instance=instance, tags=tags, run_config=config, raise_on_error=False
    )


def test_the_sensor_starts_the_deployment_of_what_was_approved(house: House) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(house, instance) == "no release waits for an approval"
        hold(house, 2)
        hold(house, 3)
        assert "waits for approval: adire approve light@2" in tick(house, instance)
        approve(house, 2)
        request = tick(house, instance)
        assert request.run_config == {"ops": {"light__deployed_model": {"config": {"release": 2}}}}
        root = str(house.project.root)
        definitions = dg.Definitions(
            assets=model_assets(house.project, MODEL),
            jobs=[deployment_job(MODEL)],
            resources={
                "references": ReferenceIOManager(project_root=root),
                "children": ChildProcesses(project_root=root),
                "mlflow": MlflowTracking(project_root=root),
            },
        )
        job = definitions.resolve_job_def("light_deployment")
        assert dg.validate_run_config(job, request.run_config)
        go_live(house, 2)
        assert "waits for approval: adire approve light@3" in tick(house, instance)


def test_the_sensor_deploys_nothing_while_what_decides_is_not_committed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(house, 2)
    approve(house, 2)
    found = ["not committed: configs/fleet.yaml (changed)"]
    monkeypatch.setattr("adire_assets.gates.clean_commit.refusal", lambda *_: found[0])
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(house, instance) == f"release 2 is approved; {found[0]}"
        monkeypatch.setattr("adire_assets.gates.clean_commit.refusal", lambda *_: None)
        assert isinstance(tick(house, instance), dg.RunRequest)


def test_each_approval_is_seen_anew_and_a_revoked_one_is_not(house: House) -> None:
    keys = set()
    with dg.DagsterInstance.ephemeral() as instance:
        hold(house, 2)
        for _ in range(3):
            approve(house, 2)
            keys.add(tick(house, instance).run_key)
            approvals.revoke(house.project, house.releases[2], "not yet")
            assert "waits for approval" in tick(house, instance)
    assert len(keys) == 3


def test_a_failed_deployment_is_tried_again_after_a_pause_and_a_carried_out_one_is_not(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(house, 2)
    approve(house, 2)
    with dg.DagsterInstance.ephemeral() as instance:
        first = tick(house, instance)
        carry_out(instance, first, succeeds=False)
        assert "1 failed run(s), next attempt in" in tick(house, instance)
        monkeypatch.setattr("adire_assets.defs.ticks.FIRST_RETRY_SECONDS", 0)
        second = tick(house, instance)
        assert second.run_key != first.run_key and second.tags == first.tags
        carry_out(instance, second, succeeds=True)
        assert "has done its part" in tick(house, instance)


def test_another_run_of_the_model_is_waited_for(house: House) -> None:
    hold(house, 2)
    approve(house, 2)
    with dg.DagsterInstance.ephemeral() as instance:
        config = {"ops": {"end": {"config": {"succeeds": True}}}}
        tags = {"adire/model": MODEL}
        run = instance.create_run_for_job(stand_in, run_config=config, tags=tags)
        assert tick(house, instance) == f"run {run.run_id[:8]} is under way"


def test_a_held_deployment_fails_nothing_and_is_not_materialized(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asset in Dagster: three warnings that carry the command, and no materialization."""
    monkeypatch.setenv("ADIRE_HOME", str(house.project.home))
    root = str(house.project.root)
    manager = ReferenceIOManager(project_root=root)
    reference = house.releases[2].repository
    path = house.project.home / "references" / "latest" / MODEL / "triton_repository.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(reference))
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            model_assets(house.project, MODEL),
            selection=f"key:{MODEL}/deployed_model",
            instance=instance,
            resources={
                "references": manager,
                "children": ChildProcesses(project_root=root),
                "mlflow": MlflowTracking(project_root=root),
            },
        )
        assert done.success
        assert done.get_asset_materialization_events() == []
        checks = done.get_asset_check_evaluations()
    assert {one.check_name for one in checks} == {"human_approval", "rollout", "rollout_steps"}
    for one in checks:
        assert not one.passed and one.severity == dg.AssetCheckSeverity.WARN
        assert "adire approve light@2" in one.description
    assert house.record.live == 1 and waiting(house) == [2]
