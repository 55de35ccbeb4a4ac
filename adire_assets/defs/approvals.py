"""Approvals in Dagster: a check that says who waits for whom, and a sensor that goes on.

A held deployment ends its run in success: nothing failed, `deployed_model` is not materialized, and
its checks warn with the command that lets it go on. The sensor `<model>_approval` sees the approval
and starts the job `<model>_deployment` for that release, which may be older than the latest one.
"""

from typing import Any

import dagster as dg

from adire_assets.core.project import Project
from adire_assets.defs import ticks
from adire_assets.defs.sensors import APPROVAL_TAG, MODEL_TAG
from adire_assets.gates import approvals, policy_comparison


class Deployment(dg.Config):
    """Which release to deploy; by default the one that `triton_repository` has made."""

    release: int | None = None


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
        tags = {APPROVAL_TAG: found.key, "adire/why": f"{release} is approved"}
        if told := policy_comparison.current_sentence(project, model):
            tags["adire/policy"] = told
        config = {"config": {"release": found.record.number}}
        return dg.RunRequest(
            # Each approval and each attempt has its own: one that was seen is never seen again.
            run_key=f"{found.key}-{len(tried)}",
            run_config={"ops": {f"{model}__deployed_model": config}},
            tags=tags,
        )

    return approval
