"""The asset `Feedback/<model>`: what users said on a day, of each release.

Its days are partitions, and it has no checks: those of partitions would overwrite each other. It is
no part of the line: nothing is made from it. Key and group have a name that no model can have, with
a capital: `key:<model>/*` selects the line alone, which has no days and cannot be materialized
together with what has.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from adire_assets.core.project import Project
from adire_assets.defs.resources import answered
from adire_assets.monitoring import feedback, feedback_review, feedback_watch

GROUP = "Feedback"  # of the assets, and what their keys begin with
DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_offset=1)  # with the day that it is
HOUR = 1  # of the night, UTC, at which the day before is materialized


def feedback_asset(project: Project, model: str) -> dg.AssetsDefinition:
    """The asset of a model."""

    @dg.asset(
        name=model,
        key_prefix=[GROUP],
        group_name=GROUP,
        partitions_def=DAYS,
        code_version="1",
    )
    @answered()
    def of_day(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """What users said of the model's answers on this day."""
        given = feedback.of_day(project, model, context.partition_key)
        for alarm in feedback_watch.alarms(project, model):
            context.log.warning(alarm)
        releases = {str(one.release): _facts(one) for one in feedback_review.figures(given)}
        return dg.MaterializeResult(metadata={"count": len(given), "releases": releases})

    return of_day


def _facts(one: feedback_review.Figures) -> Mapping[str, Any]:
    return {
        "count": one.count,
        "users": one.users,
        "bad": one.bad,
        "mean": one.mean,
        "flags": {flag: count for flag, count in one.flags.items() if count},
    }


def feedback_schedule(model: str) -> dg.ScheduleDefinition:
    """Materializes each day when it is over."""
    job = dg.define_asset_job(
        f"{model}_feedback",
        selection=dg.AssetSelection.assets([GROUP, model]),
        description=f"What users said of {model} on a day.",
    )

    @dg.schedule(
        name=f"{model}_feedback",
        job=job,
        cron_schedule=f"0 {HOUR} * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Materializes the day before of {GROUP}/{model}.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = context.scheduled_execution_time - timedelta(days=1)
        return dg.RunRequest(partition_key=day.strftime("%Y-%m-%d"))

    return nightly
