"""The sensors of one model: new data, config, base, code or libraries start the line by themselves,
and an approval a deployment.

`<model>_changes` keeps no cursor. Each tick compares the state of the working tree (the keys of the
sources, the steps' code and the library versions) with the runs that it started and with what was
last materialized, so going back to an earlier state is a change like any other. A state whose run
failed is tried again after 1, 2, 4, ... minutes, at most an hour apart; one that the gates refused
is not tried again, because the same recipe gives the same adapter.

A release that waits for an approval is left to `<model>_approval`. Its deployment ended in success:
nothing failed, `deployed_model` is not materialized, and its checks warn with the command that lets
it go on. Once it is approved, the job `<model>_deployment` deploys that release, which may be older
than the latest one.

A run that a person stopped, in the studio or in Dagster's UI, is not started again for the same
state.

Neither starts anything while a file that decides is not committed
(`adire_assets.gates.clean_commit`); a run of theirs asks that again before it deploys.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import dagster as dg

from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.defs import ticks
from adire_assets.gates import approvals, clean_commit, policy_comparison
from adire_assets.gates.policy_comparison import VERDICT
from adire_assets.line.changes import (
    MODEL_TAG,
    POLICY_TAG,
    ROLLOUT_CHECK,
    STATE_TAG,
    WHY_TAG,
    State,
    run_tags,
    state_of,
    was_killed,
)
from adire_assets.line.changes import deployment_job as deployment_job_name

APPROVAL_TAG = "adire/approval"
LAST = ("triton_repository", "deployed_model")


def model_sensor(project: Project, model: str, job_name: str) -> dg.SensorDefinition:
    """The sensor `<model>_changes` that starts `job_name`."""

    @ticks.sensor(
        f"{model}_changes",
        job_name,
        f"Starts the line of {model} when its data, config, base or code change.",
        seconds=30,
    )
    def changes(context: ticks.Context) -> dg.RunRequest | str:
        if not load_model(project, model).enabled:
            return f"{model} is disabled in {project.model_file(model)}"
        state = state_of(project, model)
        found = _wanted(context, project, model, state)
        if isinstance(found, str):
            return f"state {state.digest[:12]}: {found}"
        context.log.info(f"state {state.digest[:12]}: {found.tags[WHY_TAG]}; starting a run")
        return found

    return changes


def _wanted(
    context: ticks.Context, project: Project, model: str, state: State
) -> dg.RunRequest | str:
    """A run for this state of the working tree, or why there is none to start."""
    instance, sources = context.instance, state.sources
    runs = ticks.runs_of(context, MODEL_TAG, model, limit=20)
    killed = [record for record in runs if _was_killed(project, record)]
    for record in killed:
        instance.report_run_failed(record.dagster_run, "The process of this run was killed.")
    if runs[:1] == killed[:1] != []:
        return f"{ticks.short(runs[0])} was killed; marked as failed"
    if ticks.under_way(runs):
        return f"{ticks.short(runs[0])} is under way"
    same = list(
        takewhile(lambda record: record.dagster_run.tags.get(STATE_TAG) == state.digest, runs)
    )
    failed = bool(same) and not same[0].dagster_run.is_success
    made = {name: _materialized(instance, model, name) for name in (*sources, *LAST)}
    changed = [name for name, key in sources.items() if made[name][0] != key]
    if _stopped(runs, state):
        return (
            f"{ticks.short(runs[0])} was stopped; start it again in the studio or with `adire "
            f"materialize {model}`, or change something"
        )
    if not changed and not failed:
        sources_made = max(made[name][1] for name in sources)
        released, deployed = (made[name][1] >= sources_made for name in LAST)
        if released and (waits := approvals.on_hold(project, model)):
            return waits
        if same:
            return f"{ticks.short(same[0])} brought it live"
        if deployed:
            return "what is materialized is what the project says"
    if failed:
        if refused := _refused_gates(instance, same[0].dagster_run.run_id):
            return (
                f"refused by {', '.join(refused)} in {ticks.short(same[0])}; change the data or "
                "the config"
            )
        if pause := ticks.pause(same):
            return pause
    why = f"{', '.join(changed) or 'code, libraries or an unfinished run'} changed"
    if hindrance := ticks.hindrance(project, model):
        return f"{why}; {hindrance}"
    tags = run_tags(project, model, state, why)
    if weaker := tags.get(POLICY_TAG):
        context.log.warning(f"{model}: the policy is {weaker}")
    return dg.RunRequest(tags=tags)


def _was_killed(project: Project, record: dg.RunRecord) -> bool:
    run, since = record.dagster_run, record.start_time or time.time()
    return run.status == dg.DagsterRunStatus.STARTED and was_killed(project, run.run_id, since)


def _stopped(runs: Sequence[dg.RunRecord], state: State) -> bool:
    """Whether a person stopped the latest run, and it was for the state as it is now.

    Dagster calls a run canceled only if somebody asked for that; one whose process was interrupted
    otherwise has failed. Runs of the terminal or of Dagster's UI do not say their state: theirs is
    that of the run before them.
    """
    if not runs or runs[0].dagster_run.status != dg.DagsterRunStatus.CANCELED:
        return False
    told = (record.dagster_run.tags.get(STATE_TAG) for record in runs)
    return next(filter(None, told), None) == state.digest


def require_committed(project: Project, model: str, run: dg.DagsterRun) -> None:
    """UserError when a sensor or the studio started `run`, and files that decide are not committed
    (any more)."""
    if {STATE_TAG, APPROVAL_TAG} & {*run.tags} and (why := clean_commit.refusal(project, model)):
        raise UserError(f"{model}: this run was started by a sensor or in the studio; {why}")


class Deployment(dg.Config):
    """Which release to deploy; by default the one that `triton_repository` has made."""

    release: int | None = None


def deployment_job(model: str) -> Any:
    """Deploys a release; nothing is trained or built."""
    return dg.define_asset_job(
        deployment_job_name(model),
        selection=dg.AssetSelection.assets([model, "deployed_model"]),
        tags={MODEL_TAG: model},
        description=f"Brings a release of {model} live, by default the latest.",
    )


def approval_sensor(project: Project, model: str, job_name: str) -> dg.SensorDefinition:
    """The sensor `<model>_approval`."""

    @ticks.sensor(
        f"{model}_approval",
        job_name,
        f"Deploys a release of {model} when a person has approved it.",
    )
    def approval(context: ticks.Context) -> dg.RunRequest | str:
        found = approvals.resumable(project, model)
        if found is None:
            waiting = [approvals.sentence(one) for one in approvals.waiting(project, model)]
            return "; ".join(waiting) or "no release waits for an approval"
        runs = ticks.runs_of(context, MODEL_TAG, model, limit=1)
        if ticks.under_way(runs):
            return f"{ticks.short(runs[0])} is under way"
        release = f"release {found.record.number}"
        tried = ticks.runs_of(context, APPROVAL_TAG, found.key)
        if tried and tried[0].dagster_run.is_success:
            return f"{release} was approved, and {ticks.short(tried[0])} has done its part"
        if pause := ticks.pause(tried):
            return f"{release} is approved: {pause}"
        if hindrance := ticks.hindrance(project, model):
            return f"{release} is approved; {hindrance}"
        tags = {APPROVAL_TAG: found.key, WHY_TAG: f"{release} is approved"}
        if told := policy_comparison.current_sentence(project, model):
            tags[POLICY_TAG] = told
        config = {"config": {"release": found.record.number}}
        return dg.RunRequest(
            # Each approval and each attempt has its own: one that was seen is never seen again.
            run_key=f"{found.key}-{len(tried)}",
            run_config={"ops": {f"{model}__deployed_model": config}},
            tags=tags,
        )

    return approval


def broken_models(wrong: Mapping[str, str]) -> dg.SensorDefinition:
    """A sensor that starts nothing; its ticks say what is wrong with the YAML of which model."""
    return ticks.sensor(
        "broken_models",
        None,
        f"Not shown, because their YAML is no good: {', '.join(wrong)}.",
        seconds=300,
        metadata={name: dg.MetadataValue.text(sentence) for name, sentence in wrong.items()},
    )(lambda _: f"{'; '.join(wrong.values())}; mend that, then reload the code location")


def _materialized(instance: dg.DagsterInstance, model: str, asset: str) -> tuple[Any, float]:
    """(recipe key, time) of the latest materialization of an asset; (None, 0) without one."""
    event = instance.get_latest_materialization_event(dg.AssetKey([model, asset]))
    if event is None or event.asset_materialization is None:
        return None, 0.0
    key = event.asset_materialization.metadata.get("recipe_key")
    return key and key.value, event.timestamp


def _refused_gates(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """The gates that failed in a run."""
    records = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    events = [one.event_log_entry.dagster_event for one in records]
    checks = [event.asset_check_evaluation_data for event in events if event]
    return [
        check.check_name
        for check in checks
        if not check.passed
        and (check.asset_key.path[-1] == VERDICT or check.check_name == ROLLOUT_CHECK)
    ]
