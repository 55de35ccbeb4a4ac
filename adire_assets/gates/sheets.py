"""A rater's blind sheet, answered pair by pair: what the studio's Rate page fills in.

    sheet = start(project, wanted, "ada")    drawn, or the one that is under way
    sheet = answer(project, sheet, "left")   kept at once
    sheet = take_back(project, sheet)        the last answer
    hand_in(project, sheet)                  from then on it counts like a ratings.json

<home>/sheets/<model>/<N>/<champion>-<rater>.json holds the sheet's nonce and its answers, in the
order in which the shuffle shows the pairs; `<rater>` is a hash of the name. A sheet is drawn and
noted by `report.pages.draw_sheet`, like those of the command line.

Contract: which side is whose is told to nobody, by no function here; nor is who is ahead. How many
answers there are is told at any time, how far raters agree only of sheets that were handed in, and
only to whom handed in their own. A sheet counts when it is complete and handed in, and stays as it
is then.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from threading import Lock
from typing import Any, get_args

from adire_assets.config.fleet import load_fleet
from adire_assets.config.model import load_model
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.sample import Content
from adire_assets.gates import approvals, ratings
from adire_assets.gates.agreement import krippendorff_alpha
from adire_assets.gates.approvals import Entry
from adire_assets.gates.blind import BASE, Choice, Rating, Shuffle, champion_name
from adire_assets.gates.report import pages
from adire_assets.gates.report.document import Pair
from adire_assets.serving import record, release
from adire_assets.serving.release import ReleaseRecord
from adire_assets.serving.rollout import deployment

CHOICES: tuple[str, ...] = get_args(Choice)
RATER_DIGITS = 16  # of the hash of a rater's name
_showing = Lock()


@dataclass(frozen=True)
class Sheet:
    """One rater's sheet of a release against `champion`; `choices` are those of the first pairs of
    `order`."""

    wanted: ReleaseRecord
    champion: int
    rater: str
    shuffle: Shuffle
    asked: Mapping[str, tuple[str, int]]  # prompt and seed by the name of a pair
    order: tuple[str, ...]  # their names
    choices: tuple[Choice, ...]
    handed_in: bool

    @property
    def complete(self) -> bool:
        return len(self.choices) == len(self.order)


@dataclass(frozen=True)
class RaterProgress:
    """How far a rater has come."""

    rater: str
    answers: int
    pairs: int
    handed_in: bool


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha of the answers to the pairs that several raters have rated; None where
    it cannot be computed."""

    alpha: float | None
    raters: int
    pairs: int


@dataclass(frozen=True)
class Progress:
    """How far the ratings of a release have come on their way to the decision.

    `decided`: pairs that somebody answered, and not with a tie, on sheets that were handed in;
    `under_way`: the same on all sheets; the gate asks for `minimum` of them.
    """

    raters: tuple[RaterProgress, ...]
    decided: int
    under_way: int
    minimum: int
    uncounted: bool  # a sheet was handed in since the last count
    agreement: Agreement


def rateable(project: Project, model: str) -> list[int]:
    """The releases that can be rated against what is live, the newest first."""
    live = _champion(project, model)
    return [
        one.number
        for one in reversed(release.records(project, model))
        if one.number != live and record.quarantine_reason(project, model, one.number) is None
    ]


def against(project: Project, model: str) -> str:
    """What releases of a model are rated against now, such as "release 3"."""
    return champion_name(_champion(project, model))


def find(project: Project, wanted: ReleaseRecord, rater: str) -> Sheet | None:
    """The sheet of a rater against what is live now, if it was begun."""
    champion = _champion(project, wanted.model)
    kept = project.records.read(_name(wanted, champion, rater)).value
    return _sheet(project, wanted, kept, _history(project, wanted)) if kept else None


def start(project: Project, wanted: ReleaseRecord, rater: str) -> Sheet:
    """The sheet of a rater against what is live now, drawn where it was not begun.

    UserError as for `pages.draw_sheet`, for a rater who has handed in another sheet of it, and
    where it was evaluated again.
    """
    champion = _champion(project, wanted.model)
    name = _name(wanted, champion, rater)
    with project.locks.acquire(name.replace("/", "-")) as lease:
        _require_current(project, wanted)
        if found := find(project, wanted, rater):
            return found
        entries, about = (
            ratings.of_comparison(project, wanted, champion),
            approvals.content_of(wanted),
        )
        if _rated_by([one for one in entries if one.content == about], rater):
            raise UserError(
                f"{rater} has handed in a rating of release {wanted.number} of {wanted.model} "
                "already; a second answer to a pair does not count"
            )
        view, shuffle, _ = pages.draw_sheet(project, f"{wanted.model}@{wanted.number}")
        if view.champion_release != champion:
            raise UserError("what is live has changed meanwhile; start again")
        begun: dict[str, Any] = {
            "content": about,
            "champion": champion,
            "rater": rater,
            "nonce": shuffle.nonce,
            "choices": [],
        }
        project.records.change(name, lambda _: begun, lease=lease)
    found = find(project, wanted, rater)
    if found is None:
        raise UserError("what is live has changed meanwhile; start again")
    return found


def answer(project: Project, sheet: Sheet, choice: str) -> Sheet:
    """Keep the answer to the next pair. UserError for an answer that there is not, and where the
    sheet went on elsewhere meanwhile."""
    if choice not in CHOICES or sheet.complete:
        raise UserError(f"answer one of the sheet's pairs with {', '.join(CHOICES)}")
    return _changed(project, sheet, [*sheet.choices, choice])


def take_back(project: Project, sheet: Sheet) -> Sheet:
    """Forget the last answer. UserError where there is none, where the sheet was handed in, and
    where it went on elsewhere meanwhile."""
    if not sheet.choices:
        raise UserError("there is no answer to take back")
    return _changed(project, sheet, [*sheet.choices[:-1]])


def hand_in(project: Project, sheet: Sheet) -> Sheet:
    """Let the answers of a complete sheet count. UserError as for `ratings.hand_in`."""
    found = find(project, sheet.wanted, sheet.rater)
    if found is None or found.shuffle.nonce != sheet.shuffle.nonce:
        raise UserError("what is live has changed since this sheet was drawn; start again")
    if found.handed_in:
        return found
    if not found.complete:
        raise UserError(
            f"{len(found.choices)} of {len(found.order)} pairs are rated; rate the others first"
        )
    rating = Rating(
        model=sheet.wanted.model,
        challenger=sheet.wanted.number,
        champion=found.champion,
        nonce=found.shuffle.nonce,
        rater=found.rater,
        choices=dict(zip(found.order, found.choices, strict=True)),
    )
    ratings.hand_in(project, sheet.wanted, found.champion, rating)
    return replace(found, handed_in=True)


def sides(project: Project, sheet: Sheet) -> tuple[str, Content, Content]:
    """Prompt, left and right side of the next pair. UserError where what is live has changed."""
    pairs = _pairs(project, sheet.wanted, sheet.champion)
    pair = pairs.get(sheet.order[len(sheet.choices)])
    if pair is None:
        raise UserError("the answers of this pair are gone; restore the evaluation from a backup")
    shown = (pair.challenger, pair.champion)
    left, right = shown if sheet.shuffle.challenger_is_left(pair.name) else shown[::-1]
    return pair.prompt, left, right


def rule(project: Project, sheet: Sheet) -> tuple[str, str]:
    """What the sheet must bring, and how that is counted."""
    prompts = {name: prompt for name, (prompt, _) in sheet.asked.items()}
    return ratings.rule(project, sheet.wanted, sheet.champion, prompts)


def progress(project: Project, wanted: ReleaseRecord) -> Progress:
    """How far all raters have come against what is live now."""
    champion = _champion(project, wanted.model)
    entries = ratings.of_comparison(project, wanted, champion)
    votes = ratings.first_votes(entries)
    raters = {
        ratings.same_rater(one["rater"]): RaterProgress(
            one["rater"], len(one["votes"]), len(one["votes"]), True
        )
        for one in ratings.ratings_in(entries)
    }
    decided = {vote[1:] for vote, sign in votes.items() if sign}
    under_way = set(decided)
    for sheet in _under_way(project, wanted, champion):
        name = ratings.same_rater(sheet.rater)
        if name not in raters:
            raters[name] = RaterProgress(
                sheet.rater, len(sheet.choices), len(sheet.order), sheet.handed_in
            )
        answered = zip(sheet.order, sheet.choices, strict=False)
        under_way |= {sheet.asked[pair] for pair, choice in answered if choice != "tie"}
    return Progress(
        raters=tuple(raters[name] for name in sorted(raters)),
        decided=len(decided),
        under_way=len(under_way),
        minimum=load_model(project, wanted.model).evaluation.gates.human_minimum_pairs,
        uncounted=ratings.uncounted(entries),
        agreement=_agreement(votes),
    )


def _agreement(votes: Mapping[ratings.Vote, int]) -> Agreement:
    by_pair = sorted((vote[1:], vote[0], sign) for vote, sign in votes.items())
    units = [[*found] for _, found in groupby(by_pair, key=lambda one: one[0])]
    shared = [unit for unit in units if len(unit) > 1]
    raters = {rater for unit in shared for _, rater, _ in unit}
    alpha = krippendorff_alpha([[sign for *_, sign in unit] for unit in shared])
    return Agreement(alpha, len(raters), len(shared))


def _champion(project: Project, model: str) -> int:
    return deployment.champion(project, load_fleet(project), model) or BASE


def _name(wanted: ReleaseRecord, champion: int, rater: str) -> str:
    digest = sha256(ratings.same_rater(rater).encode()).hexdigest()[:RATER_DIGITS]
    return f"{_folder(wanted)}/{champion}-{digest}"


def _folder(wanted: ReleaseRecord) -> str:
    return f"sheets/{wanted.model}/{wanted.number}"


def _history(project: Project, wanted: ReleaseRecord) -> list[Entry]:
    return approvals.history(project, wanted.model, wanted.number)


def _sheet(
    project: Project, wanted: ReleaseRecord, kept: Mapping[str, Any], known: list[Entry]
) -> Sheet | None:
    """The sheet that a record holds; None where it is about other content, or was drawn with a
    secret that the project no longer has."""
    made = [one.rating for one in known if one.action == "sheet" and one.rating]
    noted = next((one["pairs"] for one in made if one["nonce"] == kept["nonce"]), None)
    if noted is None or kept["content"] != approvals.content_of(wanted):
        return None
    own = [one for one in known if one.rating and one.rating.get("nonce") == kept["nonce"]]
    shuffle = Shuffle(approvals.rating_secret(project), kept["nonce"])
    if not shuffle.is_of((wanted.model, wanted.number, kept["champion"]), noted):
        return None
    return Sheet(
        wanted=wanted,
        champion=kept["champion"],
        rater=kept["rater"],
        shuffle=shuffle,
        asked={name: (prompt, seed) for name, (prompt, seed) in noted.items()},
        order=tuple(shuffle.order(noted)),
        choices=tuple(kept["choices"]),
        handed_in=_rated_by(own, kept["rater"]),
    )


def _rated_by(entries: Iterable[Entry], rater: str) -> bool:
    """Whether a rating of this rater is among these entries."""
    found = ratings.ratings_in([*entries])
    return ratings.same_rater(rater) in {ratings.same_rater(one["rater"]) for one in found}


def _under_way(project: Project, wanted: ReleaseRecord, champion: int) -> list[Sheet]:
    begin = f"{_folder(wanted)}/{champion}-"
    names = [one for one in project.records.list(_folder(wanted)) if one.startswith(begin)]
    kept = [one for name in names if (one := project.records.read(name).value)]
    known = _history(project, wanted) if kept else []
    return [found for one in kept if (found := _sheet(project, wanted, one, known))]


def _changed(project: Project, sheet: Sheet, choices: list[str]) -> Sheet:
    name = _name(sheet.wanted, sheet.champion, sheet.rater)
    now = find(project, sheet.wanted, sheet.rater)
    if now and now.handed_in:
        raise UserError("this sheet was handed in; its answers stay as they are")

    def changed(kept: Any) -> dict[str, Any]:
        same = kept and kept["nonce"] == sheet.shuffle.nonce
        if not same or tuple(kept["choices"]) != sheet.choices:
            raise UserError("this sheet went on in another window; it is shown as it is now")
        return {**kept, "choices": choices}

    kept = project.records.change(name, changed).value
    return replace(sheet, choices=tuple(kept["choices"]))


def _pairs(project: Project, wanted: ReleaseRecord, champion: int) -> Mapping[str, Pair]:
    evaluation = wanted.evaluation["content_hash"]
    with _showing:  # raters who come together have the pictures made once
        return _shown(project, wanted.model, wanted.number, evaluation, champion)


@lru_cache(maxsize=4)  # some megabytes each
def _shown(
    project: Project, model: str, number: int, evaluation: str, champion: int
) -> Mapping[str, Pair]:
    """The pairs of a release by name. `evaluation` is the content hash of what they are from."""
    view = pages.blind_view(project, f"{model}@{number}")
    if view.champion_release != champion:
        raise UserError("what is live has changed since this sheet was drawn; open the page again")
    _require_evaluation(project, model, number, evaluation)
    return {pair.name: pair for pair in view.pairs}


def _require_current(project: Project, wanted: ReleaseRecord) -> None:
    evaluation = wanted.evaluation["content_hash"]
    _require_evaluation(project, wanted.model, wanted.number, evaluation)


def _require_evaluation(project: Project, model: str, number: int, evaluation: str) -> None:
    """UserError unless the release's evaluation still has this content hash."""
    now = release.read_record(project, model, number)
    if now.evaluation["content_hash"] != evaluation:
        raise UserError(f"release {number} of {model} was evaluated again; open the page again")
