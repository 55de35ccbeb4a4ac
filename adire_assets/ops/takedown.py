"""`adire takedown`: excludes an image or a record from training, and quarantines its releases."""

from collections.abc import Iterator

from adire_assets.config import takedowns
from adire_assets.config.fleet import load_fleet
from adire_assets.config.takedowns import Takedown
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates import approvals, contents
from adire_assets.ops import uses
from adire_assets.serving import record
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import steps

STAYS = (
    "the file itself stays in the data, DVC's cache and remotes, and in datasets that the store "
    "keeps: docs/reproduce.md says how to delete it"
)


def take_down(project: Project, what: str, reason: str, by: str | None) -> Iterator[str]:
    """Exclude `what`, a file of the data or FILE:LINE, from all datasets built from now on, and
    quarantine the releases that rest on it; a line for each.

    Releases that stand by are taken out of their slots, a rollout ends, and a live release stays
    live. UserError, with nothing changed, when `what` is neither in the data nor in a dataset, or
    is several records.
    """
    fleet = load_fleet(project)
    asked = uses.asked_for(project, what, uses.read_datasets(project))
    if asked.records > 1:
        raise UserError(
            f"{what} holds {asked.records} records; put each on a line of its own, and name one as "
            "FILE:LINE"
        )
    told = {"file": what, "reason": reason, "by": by or approvals.account(), "at": record.now()}
    entries = [Takedown(sha256=one, **told) for one in sorted(asked.identities)]
    added = takedowns.add(project, entries)
    # Read again: what was built or released before the entry was there may rest on it.
    datasets = uses.read_datasets(project)
    found = uses.used(project, asked, datasets)
    said: list[str] = []  # whoever reads the lines may go away before all is done
    for model in sorted({use.dataset.model for use in found}):
        contents.quarantine_taken_down(project, model, said.append)
        steps.withdraw_quarantined(project, fleet, model, said.append)
    yield from uses.lines(project, asked, datasets, found)
    for use in found:
        for _, releases in use.adapters:
            for one in releases:
                yield from _outcome(project, one)
    yield from said
    path = project.root / takedowns.FILE
    if added:
        yield (
            f"{path}: entry added; once it is committed, the sensors retrain the affected models "
            "without it"
        )
    else:
        yield (
            f"{path} has an entry of it already; once that is committed, the sensors retrain the "
            "affected models without it"
        )
    yield STAYS


def _outcome(project: Project, one: ReleaseRecord) -> Iterator[str]:
    where = uses.whereabouts(project, one)
    yield f"release {one.model}@{one.number} is quarantined{where and f', and {where}'}"
    if "live on" in where:
        yield (
            f"  it still answers until the next release replaces it; `adire rollback {one.model} "
            "--reason ...` goes back to the last one that does not rest on it"
        )
    if "in a rollout on" in where:
        yield (
            "  the process that carries the rollout out ends it; where that has died, `adire "
            f"rollout watch {one.model}` does"
        )
