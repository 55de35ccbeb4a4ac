"""Rollouts in Dagster: decisions as asset-check evaluations, and a sensor that takes over.

A rollout is carried out by the run that materializes `deployed_model`. When that run dies, the
lease in the deployment record runs out, and the sensor `<model>_rollout` starts the job of the same
name, which goes on from where the rollout stands.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from adire_assets.config.fleet import load_fleet
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.shown import table
from adire_assets.defs import ticks
from adire_assets.gates import policy_comparison
from adire_assets.gates.clean_commit import file_list
from adire_assets.line import deploy
from adire_assets.serving import record
from adire_assets.serving.state import DeploymentRecord, Plan

ROLLOUT_CHECK = "rollout"  # how a rollout ended
# Its decisions. A check of their own: they are taken before the asset counts as materialized, and
# the UI shows a check whose latest evaluation is older than its asset as not evaluated.
STEP_CHECK = "rollout_steps"
ROLLOUT_TAG = "adire/rollout"
TAKES_LEASE_WITHIN_SECONDS = 90
PLAN_TAG = "adire/plan"
FINISHED_WITHIN_SECONDS = 60  # by who has made the plan
LONGEST_FINISH_SECONDS = 600  # a run that takes longer has been killed


def reporter(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, model: str
) -> Callable[[str, Mapping[str, Any]], None]:
    """Makes each decision an evaluation of the check `rollout_steps`, the moment it is taken."""

    def report(target: str, decision: Mapping[str, Any]) -> None:
        what = decision["decision"]
        where = f"{decision['percent']} %" if decision["percent"] else decision["stage"]
        context.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey([model, "deployed_model"]),
                check_name=STEP_CHECK,
                passed=what == "promote",
                severity=dg.AssetCheckSeverity.WARN
                if what == "hold"
                else dg.AssetCheckSeverity.ERROR,
                description=f"{target}, {where}: {what}: {decision['sentence']}",
                metadata={
                    "target": target,
                    "release": decision["release"],
                    "percent": decision["percent"],
                    "numbers": dict(decision["numbers"]),
                },
            )
        )

    return report


def outcome(number: int, records: Sequence[DeploymentRecord]) -> tuple[bool, str, dict[str, Any]]:
    """(live on every target, why not in a sentence, metadata) of release `number`."""
    sent_back = [state for state in records if state.live != number]
    decisions = [
        {"target": state.target, **{name: one[name] for name in COLUMNS}}
        for state in records
        if state.last_rollout and state.last_rollout["number"] == number
        for one in state.last_rollout["decisions"]
    ]
    if sent_back:
        last = sent_back[-1].last_rollout or {}
        # What was live and has gone back since has its reason in the history.
        why = last.get("reason") or next((e["reason"] for e in sent_back[-1].history[-1:]), None)
        sentence = (
            f"release {number} was sent back on {sent_back[-1].target}: {why}; "
            f"{sent_back[-1].live_text} is live there"
        )
    else:
        where = ", ".join(state.target for state in records)
        sentence = f"release {number} is live on {where}"
    metadata: dict[str, Any] = {
        "live": {state.target: state.live for state in records},
        "since": {state.target: state.since for state in records},
    }
    if decisions:
        metadata["decisions"] = dg.MetadataValue.md(table(("target", *COLUMNS), decisions))
    return not sent_back, sentence, metadata


COLUMNS = ("at", "percent", "decision", "sentence")


def rollout_job(project: Project, model: str) -> dg.JobDefinition:
    """Carries out the rollout of a model that nobody carries out."""

    @dg.op(name=f"{model}_watch_rollout")
    def watch(context: dg.OpExecutionContext) -> None:
        try:
            records = deploy.watch_rollout(
                project, model, context.log.info, reporter(context, model)
            )
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        number = next((one["number"] for state in records if (one := state.last_rollout)), None)
        if number is None:
            return
        live, sentence, metadata = outcome(number, records)
        context.log.info(sentence)
        context.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey([model, "deployed_model"]),
                check_name=ROLLOUT_CHECK,
                passed=live,
                description=sentence,
            )
        )
        context.log_event(
            dg.AssetMaterialization(
                dg.AssetKey([model, "deployed_model"]),
                description=sentence,
                metadata={"release": number, **metadata},
            )
        )

    @dg.job(
        name=f"{model}_rollout",
        tags={ROLLOUT_TAG: model},
        description=f"Goes on with a rollout of {model} that was left.",
    )
    def rollout() -> None:
        watch()

    return rollout


def _age(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()


def _finishing(context: dg.SensorEvaluationContext, model: str, plan: Plan) -> dg.RunRequest | str:
    """A run that does what a plan lacks outside the records; later again when that has failed."""
    key = f"{model}-{plan.token}-{plan.at}"
    tried = ticks.runs_of(context, PLAN_TAG, key)
    if tried and not tried[0].dagster_run.is_finished and _young(tried[0], LONGEST_FINISH_SECONDS):
        return f"{ticks.short(tried[0])} finishes: {plan.pending}"
    if tried and (wait := ticks.seconds_until_retry(tried)) > 0:
        return (
            f"unfinished: {plan.pending}: {len(tried)} run(s) have tried, next attempt in "
            f"{wait:.0f} s"
        )
    return dg.RunRequest(tags={PLAN_TAG: key, "adire/why": f"unfinished: {plan.pending}"})


def _young(run: dg.RunRecord, seconds: float) -> bool:
    return time.time() - run.create_timestamp.timestamp() < seconds


def rollout_sensor(project: Project, model: str, job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor `<model>_rollout`."""

    @ticks.sensor(
        f"{model}_rollout",
        job.name,
        f"Goes on with a rollout or rollback of {model} whose process has died.",
    )
    def left(context: dg.SensorEvaluationContext) -> dg.RunRequest | str:
        states = [record.read(project, target, model) for target in load_fleet(project).targets]
        plan = record.read_plan(project, model)
        under_way = [state for state in states if state.rollout]
        late = plan and plan.pending and _age(plan.at) > FINISHED_WITHIN_SECONDS
        if plan and late and not under_way:
            return _finishing(context, model, plan)
        # The targets that wait are carried out by who has the first of them.
        first = under_way[0] if under_way else None
        if first is None or first.rollout is None or not first.rollout.abandoned():
            return "no rollout was left"
        runs = ticks.runs_of(context, ROLLOUT_TAG, model, limit=1)
        if (
            runs
            and not runs[0].dagster_run.is_finished
            and _young(runs[0], TAKES_LEASE_WITHIN_SECONDS)
        ):
            return f"{ticks.short(runs[0])} takes it over"
        # A release that serves is watched, whatever is committed; whose limits watch it is told.
        files = policy_comparison.uncommitted(project, model)
        told = {"adire/uncommitted": file_list(files)} if files else {}
        return dg.RunRequest(tags={"adire/target": first.target, **told})

    return left
