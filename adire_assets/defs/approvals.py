"""Approvals in Dagster: a check that says who waits for whom, and a sensor that goes on.

A held deployment ends its run in success: nothing failed, `deployed_model` is not materialized, and
its checks warn with the command that lets it go on. The sensor `<model>_approval` sees the approval
and starts the job `<model>_deployment` for that release, which may be older than the latest one.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.defs.retries import seconds_until_retry
from adire_assets.defs.rollouts import ROLLOUT_CHECK, STEP_CHECK
from adire_assets.defs.sensors import APPROVAL_TAG, MODEL_TAG
from adire_assets.gates import approvals, clean_commit, policy_comparison
from adire_assets.serving.release import ReleaseRecord

APPROVAL_CHECK = "human_approval"


class Deployment(dg.Config):
    """Which release to deploy; by default the one that `triton_repository` has made."""

    release: int | None = None


def held(sentence: str) -> Iterator[dg.AssetCheckResult]:
    """Warnings, which stop nothing. Dagster wants a result for each check of the asset."""
    for name in (APPROVAL_CHECK, ROLLOUT_CHECK, STEP_CHECK):
        yield dg.AssetCheckResult(
            check_name=name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=sentence,
        )


def approved(project: Project, record: ReleaseRecord) -> dg.AssetCheckResult:
    """The check of a release that nothing held."""
    found = approvals.approval(project, record)
    return dg.AssetCheckResult(
        check_name=APPROVAL_CHECK,
        passed=True,
        description=f"approved {found.entry.told()}" if found else "no approval was needed",
    )


def deployment_job(model: str) -> Any:
    """Deploys a release; nothing is trained or built."""
    return dg.define_asset_job(
        f"{model}_deployment",
        selection=dg.AssetSelection.assets([model, "deployed_model"]),
        tags={MODEL_TAG: model},
        description=f"Brings a release of {model} live, by default the latest.",
    )


def approval_sensor(project: Project, model: str, job_name: str) -> dg.SensorDefinition:
    """The sensor `<model>_approval`."""

    @dg.sensor(
        name=f"{model}_approval",
        job_name=job_name,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Deploys a release of {model} when a person has approved it.",
    )
    def approval(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            found = approvals.resumable(project, model)
            waiting = [approvals.sentence(one) for one in approvals.waiting(project, model)]
        except UserError as error:
            return dg.SkipReason(str(error))
        if found is None:
            return dg.SkipReason("; ".join(waiting) or "no release waits for an approval")
        runs = context.instance.get_run_records(
            dg.RunsFilter(tags={MODEL_TAG: model}), limit=1, ascending=False
        )
        if runs and not runs[0].dagster_run.is_finished:
            return dg.SkipReason(f"run {runs[0].dagster_run.run_id[:8]} is under way")
        release = f"release {found.record.number}"
        tried = context.instance.get_run_records(dg.RunsFilter(tags={APPROVAL_TAG: found.key}))
        if tried and tried[0].dagster_run.is_success:
            run = tried[0].dagster_run.run_id[:8]
            return dg.SkipReason(f"{release} was approved, and run {run} has done its part")
        if tried and (left := seconds_until_retry(tried)) > 0:
            return dg.SkipReason(
                f"{release} is approved: {len(tried)} failed run(s), next attempt in {left:.0f} s"
            )
        try:
            hindrance = clean_commit.refusal(project, model)
        except UserError as error:
            hindrance = str(error)
        if hindrance:
            return dg.SkipReason(f"{release} is approved; {hindrance}")
        config = {"config": {"release": found.record.number}}
        return dg.RunRequest(
            # Each approval and each attempt has its own: one that was seen is never seen again.
            run_key=f"{found.key}-{len(tried)}",
            run_config={"ops": {f"{model}__deployed_model": config}},
            tags={
                APPROVAL_TAG: found.key,
                "adire/why": f"{release} is approved",
                **(
                    {"adire/policy": told}
                    if (told := policy_comparison.current_sentence(project, model))
                    else {}
                ),
            },
        )

    return approval
