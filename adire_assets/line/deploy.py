"""The last asset of the line, `deployed_model`: a release on its way to its users, and back.

Here a release meets the gates that the YAML holds today, the person who approves, and the fleet;
`serving.rollout` does the work, and MLflow's aliases follow what became live. Before that, releases
that rest on something taken down are quarantined. `progress` is called with sentences about what
happens, `report` with each decision, as (target, decision).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from adire_assets.config import held_weights, takedowns
from adire_assets.config.fleet import FleetConfig, load_fleet
from adire_assets.config.model import family_of
from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.store import Artifact
from adire_assets.gates import approval_commands, approvals, contents, promotion, upgrades
from adire_assets.serving import record, release
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment, rollout, steps
from adire_assets.serving.rollout.controller import Callbacks


def deployed_model(
    project: Project,
    repository: Artifact,
    progress: Callable[[str], None],
    report: Callable[[str, Mapping[str, Any]], None],
    number: int | None = None,
) -> tuple[ReleaseRecord, list[DeploymentRecord]]:
    """A release rolled out, if it passes today's gates: (the release, a record for each target).

    The release is that of `repository`, or another one of the same model by its `number`. `report`
    is told of each decision of the rollout. The records tell whether it is live. With
    `approvals.Waiting` all stays as it was, and the release counts as asked for.
    """
    wanted = (
        release.record_of(project, repository)
        if number is None
        else release.read_record(project, repository.model, number)
    )
    asked, fleet = record.now(), load_fleet(project)
    contents.quarantine_taken_down(project, wanted.model, progress)
    _withdraw(project, fleet, wanted.model, progress)
    try:
        records = deployment.deploy(
            project,
            fleet,
            wanted.model,
            wanted.number,
            verify=lambda candidate: promotion.require_release(project, candidate, progress),
            callbacks=_callbacks(project, wanted.model, progress, report),
        )
    except approvals.Waiting:
        approvals.hold(project, wanted, asked)
        raise
    promotion.reconcile_aliases(project, wanted.model)
    approval_commands.reconcile_approval(project, wanted)
    return wanted, records


def watch_rollout(
    project: Project,
    model: str,
    progress: Callable[[str], None],
    report: Callable[[str, Mapping[str, Any]], None] = lambda target, decision: None,
) -> list[DeploymentRecord]:
    """Carry out the rollout that is under way, or follow its process, and finish a rollback that
    was interrupted; the record of each target."""
    fleet = load_fleet(project)
    with _takedowns_applied(project, fleet, model, progress):
        rollout.carry_out(project, fleet, model, _callbacks(project, model, progress, report))
    promotion.reconcile_aliases(project, model)
    return [record.read(project, target, model) for target in fleet.targets]


def _callbacks(
    project: Project,
    model: str,
    progress: Callable[[str], None],
    report: Callable[[str, Mapping[str, Any]], None],
) -> Callbacks:
    return Callbacks(
        open_judge=partial(open_judge, project, model),
        progress=progress,
        report=report,
        refusal=partial(upgrades.refusal, project),
        follow=lambda: promotion.reconcile_aliases(project, model),
    )


def open_judge(project: Project, model: str, evaluation: Path) -> Any:
    """The model's judge, of answers of a release with the evaluation in this folder."""
    family = family_of(project, model)
    judge = held_weights.held(project, model, "judge").artifact
    device = lineage.device_class(load_fleet(project).device)
    return family.judge_process.functions.open_judge(judge.path, evaluation, device)


def roll_back(
    project: Project,
    model: str,
    to: int | None,
    reason: str,
    progress: Callable[[str], None],
    only: int | None = None,
    leaving: int | None = None,
) -> list[DeploymentRecord]:
    """End a rollout, or go back to an earlier release (`rollout.rollback`); the alias follows."""
    fleet = load_fleet(project)
    with _takedowns_applied(project, fleet, model, progress):
        return rollout.rollback(
            project,
            fleet,
            model,
            to,
            reason,
            progress,
            follow=lambda: promotion.reconcile_aliases(project, model),
            only=only,
            leaving=leaving,
        )


def promote(
    project: Project,
    model: str,
    reason: str,
    progress: Callable[[str], None],
    only: int | None = None,
) -> list[str]:
    """Let a rollout that waits for a person go on; see `rollout.approve`."""
    fleet = load_fleet(project)
    with _takedowns_applied(project, fleet, model, progress):
        return rollout.approve(project, fleet, model, reason, only)


@contextmanager
def _takedowns_applied(
    project: Project, fleet: FleetConfig, model: str, progress: Callable[[str], None]
) -> Iterator[None]:
    """Inside, releases that configs/takedowns.yaml covers are quarantined; afterwards none of them
    stands by. What is wrong with the file or a dataset keeps nobody from going back."""
    try:
        contents.quarantine_taken_down(project, model, progress)
    except UserError as error:
        progress(f"{takedowns.FILE} is not applied: {error}")
    try:
        yield
    finally:
        _withdraw(project, fleet, model, progress)


def _withdraw(
    project: Project, fleet: FleetConfig, model: str, progress: Callable[[str], None]
) -> None:
    states = [record.read(project, target, model) for target in fleet.targets]
    if any(steps.without_quarantined(project, state) is not state for state in states):
        steps.withdraw_quarantined(project, fleet, model, progress)
