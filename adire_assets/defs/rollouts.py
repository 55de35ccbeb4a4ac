"""Rollouts in Dagster: decisions as asset-check evaluations, and a sensor that takes over.

A rollout is carried out by the run that materializes `deployed_model`. When that run dies, the
lease in the deployment record runs out, and the sensor `<model>_rollout` starts the job of the same
name, which goes on from where the rollout stands.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from adire_assets.config.fleet import load_fleet
from adire_assets.core.project import Project
from adire_assets.core.shown import table
from adire_assets.defs import ticks
from adire_assets.defs.resources import StepContext, answered
from adire_assets.gates import policy_comparison
from adire_assets.gates.clean_commit import file_list
from adire_assets.line import deploy
from adire_assets.line.changes import ROLLOUT_CHECK
from adire_assets.serving import record
from adire_assets.serving.state import DeploymentRecord, Plan

# Its decisions. A check of their own: they are taken before the asset counts as materialized, and
# the UI shows a check whose latest evaluation is older than its asset as not evaluated.
STEP_CHECK = "rollout_steps"
ROLLOUT_TAG = "adire/rollout"
TAKES_LEASE_WITHIN_SECONDS = 90
PLAN_TAG = "adire/plan"
FINISHED_WITHIN_SECONDS = 60  # by who has made the plan
LONGEST_FINISH_SECONDS = 600  # a run that takes longer has been killed


def reporter(context: StepContext, model: str) -> Callable[[str, Mapping[str, Any]], None]:
    """Makes each decision an evaluation of the check `rollout_steps`, the moment it is taken."""

    def report(target: str, decision: Mapping[str, Any]) -> None:
        what = decision["decision"]
        where = f"{decision['percent']} %" if decision["percent"] else decision["stage"]
        context.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey([model, "deployed_model"]),
                check_name=STEP_CHECK,
                passed=what == "promote",
                severity=dg.AssetCheckSeverity("WARN" if what == "hold" else "ERROR"),
                description=f"{target}, {where}: {what}: {decision['sentence']}",
                metadata={
                    "target": target,
                    **{name: decision[name] for name in ("release", "percent")},
                    "numbers": dict(decision["numbers"]),
                },
            )
        )

    return report


def outcome(number: int, records: Sequence[DeploymentRecord]) -> tuple[bool, str, dict[str, Any]]:
    """(live on every target, why not in a sentence, metadata) of release `number`."""
    sent_back = next((state for state in reversed(records) if state.live != number), None)
    if sent_back:
        # What was live and has gone back since has its reason in the history.
        ends = [sent_back.last_rollout or {}, *sent_back.history[-1:]]
        why = next((end["reason"] for end in ends if end.get("reason")), None)
        sentence = (
            f"release {number} was sent back on {sent_back.target}: {why}; "
            f"{sent_back.live_text} is live there"
        )
    else:
        where = ", ".join(state.target for state in records)
        sentence = f"release {number} is live on {where}"
    metadata: dict[str, Any] = {
        name: {state.target: getattr(state, name) for state in records}
        for name in ("live", "since")
    }
    decisions = [
        {"target": state.target, **{name: one[name] for name in COLUMNS}}
        for state in records
        if state.last_rollout and state.last_rollout["number"] == number
        for one in state.last_rollout["decisions"]
    ]
    if decisions:
        metadata["decisions"] = dg.MetadataValue.md(table(("target", *COLUMNS), decisions))
    return sent_back is None, sentence, metadata


COLUMNS = ("at", "percent", "decision", "sentence")


def rollout_job(project: Project, model: str) -> dg.JobDefinition:
    """Carries out the rollout of a model that nobody carries out."""
    key = dg.AssetKey([model, "deployed_model"])

    @dg.op(name=f"{model}_watch_rollout")
    def watch(context: dg.OpExecutionContext) -> None:
        with answered():
            told = context.log.info, reporter(context, model)
            records = deploy.watch_rollout(project, model, *told)
        number = next((one["number"] for state in records if (one := state.last_rollout)), None)
        if number is None:
            return
        live, sentence, metadata = outcome(number, records)
        context.log.info(sentence)
        context.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=key, check_name=ROLLOUT_CHECK, passed=live, description=sentence
            )
        )
        facts = {"release": number, **metadata}
        context.log_event(dg.AssetMaterialization(key, description=sentence, metadata=facts))

    @dg.job(
        name=f"{model}_rollout",
        tags={ROLLOUT_TAG: model},
        description=f"Goes on with a rollout of {model} that was left.",
    )
    def rollout() -> None:
        watch()

    return rollout


def rollout_sensor(project: Project, model: str, job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor `<model>_rollout`."""

    @ticks.sensor(
        f"{model}_rollout",
        job.name,
        f"Goes on with a rollout or rollback of {model} whose process has died.",
    )
    def left(context: ticks.Context) -> dg.RunRequest | str:
        states = [record.read(project, target, model) for target in load_fleet(project).targets]
        # The targets that wait are carried out by who has the first of them.
        first = next((state for state in states if state.rollout), None)
        plan = record.read_plan(project, model)
        if plan and plan.pending and not first:
            age = datetime.now(UTC) - datetime.fromisoformat(plan.at)
            if age.total_seconds() > FINISHED_WITHIN_SECONDS:
                return _finishing(context, model, plan)
        if first is None or first.rollout is None or not first.rollout.abandoned():
            return "no rollout was left"
        runs = ticks.runs_of(context, ROLLOUT_TAG, model, limit=1)
        if ticks.under_way(runs, TAKES_LEASE_WITHIN_SECONDS):
            return f"{ticks.short(runs[0])} takes it over"
        # A release that serves is watched, whatever is committed; whose limits watch it is told.
        files = policy_comparison.uncommitted(project, model)
        told = {"adire/uncommitted": file_list(files)} if files else {}
        return dg.RunRequest(tags={"adire/target": first.target, **told})

    return left


def _finishing(context: ticks.Context, model: str, plan: Plan) -> dg.RunRequest | str:
    """A run that does what a plan lacks outside the records; later again when that has failed."""
    key = f"{model}-{plan.token}-{plan.at}"
    tried = ticks.runs_of(context, PLAN_TAG, key)
    if ticks.under_way(tried, LONGEST_FINISH_SECONDS):
        return f"{ticks.short(tried[0])} finishes: {plan.pending}"
    if pause := ticks.pause(tried, "run(s) have tried"):
        return f"unfinished: {plan.pending}: {pause}"
    return dg.RunRequest(tags={PLAN_TAG: key, "adire/why": f"unfinished: {plan.pending}"})
