"""A person's word on a release, asked for by `evaluation.gates.human_approval: required`.

<home>/approvals/<model>/<N>.json lists what happened to release N, and only grows:

    held       its deployment was asked for, and waits
    sheet      a blind A/B sheet was made: its nonce and pairs
    rated      a rating of such a sheet was handed in, as a file or on the Rate page: who chose what
    approved   who, why, and what all ratings said that it rests on, if any
    revoked    who took the approval back, and why
    rejected   the ratings did not show that it is better; it gives and takes nothing

Each entry carries the hashes of what it is about (repository, adapter, evaluation) and says nothing
about a release of other content. This module reads the project's files only.
`approval_commands.approve` asks whether a release may be approved at all, and
`promotion.require_release` keeps a release without approval from every target.
"""

import getpass
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from adire_assets.config.fleet import load_fleet
from adire_assets.core.disk import writing, written_whole
from adire_assets.core.errors import UserError
from adire_assets.core.files import sync
from adire_assets.core.project import Project
from adire_assets.serving import record, release
from adire_assets.serving.record import DeploymentRecord
from adire_assets.serving.release import ReleaseRecord

SECRET_BYTES = 32
Action = Literal["held", "sheet", "rated", "approved", "revoked", "rejected"]
SENT_BACK = ("rolled_back", "cancelled")  # how a rollout ends that is not to be tried again


class Waiting(UserError):
    """A release that may go live as soon as a person says so."""


@dataclass(frozen=True)
class Entry:
    """One event of a release.

    `rating` of a sheet: {"nonce", "champion", "pairs": {name: [prompt, seed]}}; of what was rated:
    {"nonce", "champion", "rater", "votes"}; of a decision: {"wins", "losses", "ties"} of prompts,
    "pairs" (the same), "raters", "sheets", "look", "champion"; see `ratings`.
    """

    action: Action
    at: str
    content: dict[str, str]
    by: str | None = None
    reason: str | None = None
    rating: dict[str, Any] | None = None

    def told(self) -> str:
        """Such as "by ada: the circles are rounder (14 of 16 decided prompts won)"."""
        counted = f" ({figures(self.rating)})" if self.rating else ""
        return f"by {self.by} at {self.at}: {self.reason}{counted}"


@dataclass(frozen=True)
class Approval:
    """An approval that holds. `key` differs from that of every other approval."""

    record: ReleaseRecord
    entry: Entry
    key: str


def content_of(record: ReleaseRecord) -> dict[str, str]:
    """What an approval is about, by content hash."""
    parts = ("repository", "adapter", "evaluation")
    return {name: getattr(record, name)["content_hash"] for name in parts}


def history(project: Project, model: str, number: int) -> list[Entry]:
    """All that happened to a release, also while it was of other content."""
    found = project.records.read(_name(model, number)).value or {"entries": []}
    return [Entry(**entry) for entry in found["entries"]]


def approval(project: Project, record: ReleaseRecord) -> Approval | None:
    """The approval of exactly this content, unless it was revoked."""
    found = None
    for place, entry in enumerate(history(project, record.model, record.number)):
        if entry.content == content_of(record) and entry.action in ("approved", "revoked"):
            key = f"{record.model}@{record.number}#{place}-{entry.at}"
            found = Approval(record, entry, key) if entry.action == "approved" else None
    return found


def sentence(record: ReleaseRecord) -> str:
    """The sentence shown wherever a waiting release is refused."""
    return (
        f"release {record.number} of {record.model} waits for approval: "
        f"adire approve {record.model}@{record.number} --reason '...'"
    )


def require(project: Project, record: ReleaseRecord) -> None:
    """Waiting unless a person has approved this release as it is."""
    if approval(project, record) is None:
        raise Waiting(sentence(record))


# --- which releases wait, and which may go on ------------------------------------------------


def waiting(project: Project, model: str) -> list[ReleaseRecord]:
    """The releases that were to be deployed and lack an approval; not what was overtaken since."""
    return [one for one in asked_for(project, model) if approval(project, one) is None]


def resumable(project: Project, model: str) -> Approval | None:
    """The approval of the latest requested release that has one; only its deployment is missing."""
    found = [approval(project, one) for one in asked_for(project, model)]
    return next((one for one in reversed(found) if one), None)


def on_hold(project: Project, model: str) -> str | None:
    """What the latest requested release waits for, in a sentence; None when none waits."""
    asked = asked_for(project, model)
    if not asked:
        return None
    if approval(project, asked[-1]) is None:
        return sentence(asked[-1])
    return f"release {asked[-1].number} of {model} is approved; {model}_approval deploys it"


def is_live(project: Project, wanted: ReleaseRecord) -> bool:
    """Whether a release is what serves on every target."""
    return all(state.live == wanted.number for state in _states(project, wanted.model))


def asked_for(project: Project, model: str) -> list[ReleaseRecord]:
    """The held releases, in the order in which their deployment was requested.

    Only those requested after the live release was, and neither sent back nor quarantined since.
    """
    states = _states(project, model)
    since = _asked_at(project, states[-1])
    ends = [end for state in states if (end := state.last_rollout) and end["outcome"] in SENT_BACK]
    found = []
    for one in release.records(project, model):
        held = _held(project, one)
        if held is None or held < since or is_live(project, one):
            continue
        sent_back = any(end["number"] == one.number and end["at"] >= held for end in ends)
        if not sent_back and record.quarantine_reason(project, model, one.number) is None:
            found.append((held, one))
    return [one for _, one in sorted(found, key=lambda item: item[0])]


def _states(project: Project, model: str) -> list[DeploymentRecord]:
    return [record.read(project, target, model) for target in load_fleet(project).targets]


def _held(project: Project, record: ReleaseRecord) -> str | None:
    """When the deployment of this content was last held."""
    about, known = content_of(record), history(project, record.model, record.number)
    times = [one.at for one in known if one.action == "held" and one.content == about]
    return max(times, default=None)


def _asked_at(project: Project, state: DeploymentRecord) -> str:
    """When what is live was asked for: then, and not when it came, it overtook what waits."""
    held = None
    if state.live is not None and state.history[-1]["action"] == "deploy":
        held = _held(project, release.read_record(project, state.model, state.live))
    return held or state.since or ""


# --- what a person does ------------------------------------------------------------------------


def hold(project: Project, wanted: ReleaseRecord, asked: str | None = None) -> None:
    """Record that a deployment waits, unless that is recorded already.

    `asked`: when it was requested, by default now. A release that went live since has overtaken it.
    """
    with adding(project, wanted) as add:
        if wanted.number not in {one.number for one in asked_for(project, wanted.model)}:
            add("held", at=asked or record.now())


def approve(
    project: Project,
    wanted: ReleaseRecord,
    reason: str,
    by: str | None = None,
    rating: dict[str, Any] | None = None,
) -> Entry:
    """Let a release go live as it is, for a reason that is not blank. UserError when it is approved
    already."""
    with adding(project, wanted) as add:
        refuse_approved(project, wanted)
        who = by or ", ".join((rating or {}).get("raters", [])) or account()
        return add("approved", by=who, reason=reason, rating=rating)


def refuse_approved(project: Project, wanted: ReleaseRecord) -> None:
    """UserError for a release that is approved: an approval is never replaced unseen."""
    if known := approval(project, wanted):
        raise UserError(
            f"release {wanted.number} of {wanted.model} is approved already, {known.entry.told()}; "
            f"to approve it anew, first: adire revoke {wanted.model}@{wanted.number} --reason '...'"
        )


def revoke(project: Project, wanted: ReleaseRecord, reason: str, by: str | None = None) -> Entry:
    """Take an approval back. UserError when there is none, or the release has gone on its way."""
    model, number = wanted.model, wanted.number
    # A rollout begins under this lock, and asks for the approval again in it.
    with project.locks.acquire(f"rollout-{model}"), adding(project, wanted) as add:
        if approval(project, wanted) is None:
            raise UserError(f"release {number} of {model} is not approved")
        for state in _states(project, model):
            on_its_way = state.rollout is not None and state.rollout.number == number
            if on_its_way or state.live == number:
                raise UserError(
                    f"release {number} of {model} is {'on its way' if on_its_way else 'live'} on "
                    f'{state.target}; `adire rollback {model} --reason "..."` takes it away'
                )
        return add("revoked", by=by or account(), reason=reason)


def note_sheet(
    project: Project, wanted: ReleaseRecord, champion: int, nonce: str, pairs: Mapping[str, Any]
) -> None:
    """Record that a blind sheet was made, with the prompt and seed of each pair."""
    with adding(project, wanted) as add:
        add("sheet", rating={"nonce": nonce, "champion": champion, "pairs": dict(pairs)})


def rating_secret(project: Project) -> bytes:
    """The secret by which this project's A/B sheets are shuffled; made on first use."""
    path = project.home / "rating_secret"
    with project.locks.acquire("rating-secret"):
        if not path.is_file():
            with writing(path), written_whole(path) as temporary:
                temporary.touch(0o600, exist_ok=False)
                temporary.write_bytes(secrets.token_bytes(SECRET_BYTES))
                sync(temporary)
        return path.read_bytes()


def figures(rating: Mapping[str, Any]) -> str:
    """Such as "12 of 15 decided prompts won (0.80), 1 ties; 28 of 36 decided pairs, 2 raters, 1 of
    1 sheets"."""
    pairs, wins = rating.get("pairs"), rating["wins"]
    decided = wins + rating["losses"]
    told = f"{wins} of {decided} decided {'prompts' if pairs else 'pairs'} won"
    told += f" ({wins / decided:.2f})" if decided else ""
    told += f", {rating['ties']} ties" if rating["ties"] else ""
    if not pairs:  # pairs alone were counted once
        return told
    raters, sheets = len(rating["raters"]), rating["sheets"]
    return (
        f"{told}; {pairs['wins']} of {pairs['decided']} decided pairs, "
        f"{raters} {'rater' if raters == 1 else 'raters'}, {sheets['rated']} of {sheets['made']} "
        "sheets"
    )


# --- the record --------------------------------------------------------------------------------


@contextmanager
def adding(project: Project, wanted: ReleaseRecord) -> Iterator[Callable[..., Entry]]:
    """Lock the record of a release; yields a function that adds an entry about its content, and
    takes the fields of `Entry` by name."""

    def add(action: Action, **fields: Any) -> Entry:
        entry = Entry(action, **{"at": record.now(), "content": content_of(wanted), **fields})

        def added(value: Any) -> dict[str, Any]:
            return {"entries": [*(value or {"entries": []})["entries"], asdict(entry)]}

        project.records.change(_name(wanted.model, wanted.number), added, lease=lease)
        return entry

    with project.locks.acquire(f"approvals-{wanted.model}-{wanted.number}") as lease:
        yield add


def _name(model: str, number: int) -> str:
    return f"approvals/{model}/{number}"


def account() -> str:
    """The name of the account that runs this. UserError when it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UserError("this account has no name; say who decides with --by NAME") from None
