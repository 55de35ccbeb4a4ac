"""`adire takedown`: excludes an image or a record from training, and quarantines its releases."""

from collections.abc import Iterator

from adire_assets.config import takedowns
from adire_assets.config.takedowns import Takedown
from adire_assets.core.project import Project
from adire_assets.gates import approvals
from adire_assets.ops import uses
from adire_assets.serving import record

STAYS = (
    "the file itself stays in the data, in DVC's cache and in its remotes: delete it from the "
    "folder, `dvc add` that, commit, and run `dvc gc --workspace --cloud`"
)


def take_down(project: Project, what: str, reason: str, by: str | None) -> Iterator[str]:
    """Exclude `what`, a file of the data or FILE:LINE, from all datasets built from now on, and
    quarantine the releases that rest on it; a line for each.

    A live release stays live; a line says how to leave it. UserError, with nothing changed, when no
    data version contains it.
    """
    content, found = uses.used(project, what)
    facts = {"was": what, "reason": reason, "by": by or approvals.account(), "at": record.now()}
    path = takedowns.add(project, [Takedown(content=one, **facts) for one in sorted(content)])
    answering = set()
    for one in (one for use in found for _, releases in use.adapters for one in releases):
        if record.quarantine_reason(project, one.model, one.number) is None:
            why = f"rests on {what}, which was taken down: {reason}"
            record.quarantine(project, one.model, one.number, why)
        where = uses.whereabouts(project, one)
        yield f"release {one.model}@{one.number}: quarantined{where and f'; {where}'}"
        if "live on" in where or "in a rollout" in where:
            answering.add(one.model)
    for model in sorted(answering):
        yield (
            f"{model}: a release that rests on it still answers; the next release replaces it, or "
            f"leave it now: `adire rollback {model} --reason ...`"
        )
    models = ", ".join(sorted({use.dataset.model for use in found}))
    yield f"{path}: entry added; once it is committed, the sensors train {models} without it"
    yield STAYS
