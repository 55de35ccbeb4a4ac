"""`adire approve` and `adire revoke`: a person lets a release go live, or takes that back."""

from pathlib import Path

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.gates import approvals, promotion
from adire_assets.gates.ratings import count_ratings, loss_sentence
from adire_assets.serving import record, release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment
from adire_assets.serving.rollout.deployment import Progress
from adire_assets.tracking import registry

TAG_CHARACTERS = 1000  # of a reason, which stands in full in the approval


def approve(
    project: Project,
    name: str,
    reason: str,
    by: str | None,
    rated: list[Path],
    progress: Progress,
    *,
    count: bool = False,
) -> str:
    """Let release `name`, such as indigo@3, go live; what becomes of it in a sentence.

    With files `rated`, or with `count`, only if its blind ratings speak for it: those of the files
    and all that were handed in before them. UserError when they do not, and when the release is
    unknown, quarantined, refused by a gate or parity, or approved already.
    """
    wanted = release.record_named(project, name)
    model, number = wanted.model, wanted.number
    policy = load_model(project, model).evaluation.gates
    record.refuse_quarantined(project, model, number)
    approvals.refuse_approved(project, wanted)
    promotion.require_passable(project, wanted, progress)
    champion = deployment.champion(project, load_fleet(project), model)
    counted = count or bool(rated)
    rating = count_ratings(project, wanted, champion, rated, policy) if counted else None
    if not counted and (against := loss_sentence(project, wanted, champion)):
        reason = f"{reason} (although its ratings were not enough: {against})"
    entry = approvals.approve(project, wanted, reason, by, rating)
    _tell_approval(project, wanted, progress)
    said = f"release {number} of {model} is approved {entry.told()}"
    if policy.human_approval == "none":
        return f"{said}; {project.model_file(model)} asks for no approval (human_approval: none)"
    if approvals.is_live(project, wanted):
        return f"{said}; it is live already"
    if (found := approvals.resumable(project, model)) and found.record.number == number:
        return f"{said}; the sensor {model}_approval deploys it now"
    return f"{said}; it goes live when it is deployed: adire materialize {model}"


def revoke(project: Project, name: str, reason: str, by: str | None, progress: Progress) -> str:
    """Take the approval of a release back that is not live yet; that in a sentence."""
    wanted = release.record_named(project, name)
    entry = approvals.revoke(project, wanted, reason, by)
    _tell_approval(project, wanted, progress)
    return f"the approval of release {wanted.number} of {wanted.model} is revoked {entry.told()}"


def _tell_approval(project: Project, wanted: ReleaseRecord, progress: Progress) -> None:
    """MLflow follows the file; where it cannot be reached, the deployment tells it later."""
    try:
        reconcile_approval(project, wanted)
    except UserError as error:
        progress(f"MLflow is not told yet: {error}")


def reconcile_approval(project: Project, wanted: ReleaseRecord) -> None:
    """Let the tags of MLflow's model version say who approved the release, and why."""
    if not approvals.history(project, wanted.model, wanted.number):
        return
    # Read inside the lock: whoever writes last has read the latest word on the release.
    with project.locks.acquire(f"registry-{wanted.model}"):
        found = approvals.approval(project, wanted)
        tags = {
            f"adire.approved_{name}": getattr(found.entry, name)[:TAG_CHARACTERS] if found else None
            for name in ("by", "at", "reason")
        }
        registry.tag_release(project, wanted.model, wanted.number, tags)
