"""`adire takedown`: excludes an image or a record from training, and quarantines its releases."""

from collections.abc import Iterator

from adire_assets.config import takedowns
from adire_assets.config.takedowns import Takedown
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates import approvals
from adire_assets.ops import uses
from adire_assets.serving import record

STAYS = (
    "the file itself stays in the data, DVC's cache and remotes, and in datasets that the store "
    "keeps: docs/reproduce.md says how to delete it"
)


def take_down(project: Project, what: str, reason: str, by: str | None) -> Iterator[str]:
    """Exclude `what`, a file of the data or FILE:LINE, from all datasets built from now on, and
    quarantine the releases that rest on it; a line for each.

    A live release stays live, a rollout ends. UserError, with nothing changed, when `what` is
    neither in the data nor in a dataset, or is several records.
    """
    content, found = uses.used(project, what)
    if len(content) > 1:
        raise UserError(
            f"{what} holds {len(content)} records; put each on a line of its own, and name one as "
            "FILE:LINE"
        )
    by = by or approvals.account()
    new = [
        Takedown(content=one, was=what, reason=reason, by=by, at=record.now()) for one in content
    ]
    path = takedowns.add(project, new)
    releases = [one for use in found for _, them in use.adapters for one in them]
    why = f"rests on {what}, which was taken down: {reason}"
    for one in releases:  # all of them before anything is told: who reads the lines may go away
        if not (record.quarantine_reason(project, one.model, one.number) or "").startswith(why):
            record.quarantine(project, one.model, one.number, why)
    yield from uses.lines(project, what, content, found)
    for one in releases:
        where = uses.whereabouts(project, one)
        yield f"release {one.model}@{one.number} is quarantined{where and f', and {where}'}"
        if "live on" in where:
            yield (
                f"  it still answers until the next release replaces it; `adire rollback "
                f"{one.model} --reason ...` goes back to the last one that does not rest on it"
            )
    yield f"{path}: entry added; commit it, and the sensors train models that had it without it"
    yield STAYS
