"""What the sensors share: how a tick reports, and when it retries what has failed."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates import clean_commit

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 60, 3600
Context = dg.SensorEvaluationContext
Tick = Callable[[Context], dg.RunRequest | str]


def sensor(
    name: str, job_name: str | None, description: str, seconds: int = 10, **more: Any
) -> Callable[[Tick], dg.SensorDefinition]:
    """A sensor, running by default, of a tick that gives a run or why none is started; a UserError
    in it is such a reason."""

    def decorate(tick: Tick) -> dg.SensorDefinition:
        @dg.sensor(
            name=name,
            job_name=job_name,
            minimum_interval_seconds=seconds,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=description,
            **more,
        )
        def look(context: Context) -> dg.RunRequest | dg.SkipReason:
            try:
                found = tick(context)
            except UserError as error:
                found = str(error)
            return dg.SkipReason(found) if isinstance(found, str) else found

        return look

    return decorate


def runs_of(
    context: Context, tag: str, value: str, limit: int | None = None
) -> Sequence[dg.RunRecord]:
    """The runs with this tag, the latest first."""
    wanted = dg.RunsFilter(tags={tag: value})
    return context.instance.get_run_records(wanted, limit=limit, ascending=False)


def under_way(runs: Sequence[dg.RunRecord], seconds: float = float("inf")) -> bool:
    """Whether the latest of these runs has not ended, and was made within the last `seconds`."""
    if not runs or runs[0].dagster_run.is_finished:
        return False
    return time.time() - runs[0].create_timestamp.timestamp() < seconds


def short(record: dg.RunRecord) -> str:
    """What to call a run."""
    return f"run {record.dagster_run.run_id[:8]}"


def pause(tried: Sequence[dg.RunRecord], what: str = "failed run(s)") -> str:
    """How long to wait after these runs, the latest first, in a clause; empty when it is time."""
    if not tried:
        return ""
    whole = min(FIRST_RETRY_SECONDS * 2 ** (len(tried) - 1), LONGEST_RETRY_SECONDS)
    left = (tried[0].end_time or time.time()) + whole - time.time()
    return f"{len(tried)} {what}, next attempt in {left:.0f} s" if left > 0 else ""


def hindrance(project: Project, model: str) -> str | None:
    """Why what is not committed keeps a sensor from going live, or why that cannot be told."""
    try:
        return clean_commit.refusal(project, model)
    except UserError as error:
        return str(error)
