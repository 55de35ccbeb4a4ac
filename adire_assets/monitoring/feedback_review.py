"""What feedback comes to: the figures of each release, and what a person makes of it."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.monitoring.feedback import (
    FLAGS,
    HIGHEST,
    LOWEST,
    TEXT_CHARACTERS,
    Given,
    all_given,
    append,
    damaged_lines,
    folder_of,
    iso,
    lines,
)

REVIEWS = "reviews.jsonl"


@dataclass(frozen=True)
class Figures:
    """What was said of a release: `mean` of its ratings and its 95 % interval (`low`, `high`),
    which counts users and not their ratings (Student's t); None without enough of them."""

    release: int
    count: int
    users: int
    bad: int
    mean: float | None
    low: float | None
    high: float | None
    flags: dict[str, int]

    def told(self) -> str:
        """In a line."""
        mean = "no rating" if self.mean is None else f"mean {self.mean:.2f}"
        if self.low is not None and self.high is not None:
            mean += f" ({self.low:.2f} to {self.high:.2f})"
        flags = "".join(f", {count} {flag}" for flag, count in self.flags.items() if count)
        return f"release {self.release}: {self.count} by {self.users} user(s), {mean}{flags}"


def figures(given: Iterable[Given]) -> list[Figures]:
    """The figures of each release, the newest first."""
    by_release: dict[int, list[Given]] = {}
    for one in given:
        by_release.setdefault(one.release, []).append(one)
    return [_figures(number, by_release[number]) for number in sorted(by_release, reverse=True)]


def _figures(number: int, given: Sequence[Given]) -> Figures:
    by_user: dict[str, list[int]] = {}
    for one in given:
        if one.rating is not None:
            by_user.setdefault(one.user, []).append(one.rating)
    flags = Counter(flag for one in given for flag in one.flags)
    mean, low, high = _interval([sum(all_) / len(all_) for all_ in by_user.values()])
    return Figures(
        release=number,
        count=len(given),
        users=len({one.user for one in given}),
        bad=sum(one.is_bad for one in given),
        mean=mean,
        low=low,
        high=high,
        flags={flag: flags[flag] for flag in FLAGS},
    )


def _interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    if not values:
        return None, None, None
    count, mean = len(values), sum(values) / len(values)
    if count < 2:
        return mean, None, None
    from scipy.stats import t  # not in every command

    deviation = (sum((one - mean) ** 2 for one in values) / (count - 1)) ** 0.5
    half = float(t.ppf(0.975, count - 1)) * deviation / count**0.5
    return mean, max(float(LOWEST), mean - half), min(float(HIGHEST), mean + half)


# --- review --------------------------------------------------------------------------------------

# What a person makes of feedback. The note says it: the better caption or answer, the file to
# leave out, the prompt that evaluations should have.
OUTCOMES = ("correction", "exclusion", "prompt", "nothing")


@dataclass(frozen=True)
class Review:
    """What became of the feedback `name`, as it was given at the time `given_at`."""

    at: str
    by: str
    name: str
    given_at: str
    outcome: str
    note: str


def review(
    project: Project, model: str, name: str, given_at: str, outcome: str, note: str, by: str
) -> str:
    """Take feedback off the list of what is to be looked at; what was said, in a sentence.

    `given_at` is the `at` of what the reviewer has seen. UserError for what is not on the list or
    has changed since, for an outcome that there is not, and without a note.
    """
    if outcome not in OUTCOMES:
        raise UserError(f"there is no outcome {outcome!r}; outcomes are {', '.join(OUTCOMES)}")
    if not note.strip() or len(note) > TEXT_CHARACTERS:
        raise UserError(f"a review needs a note of at most {TEXT_CHARACTERS} characters")
    with project.locks.acquire(f"feedback-{model}"):
        waiting = {one.name: one.at for one in to_review(project, model)}
        if name not in waiting:
            raise UserError(f"{name} is not on that list; see `adire feedback list {model}`")
        if waiting[name] != given_at:
            raise UserError(
                f"{name} was changed by its user at {waiting[name]}; look at what it says now, "
                "then review it"
            )
        made = Review(iso(time.time()), by, name, given_at, outcome, note.strip())
        append(folder_of(project, model) / REVIEWS, asdict(made))
    return f"{model}: {name} is reviewed: {outcome}"


def reviews(project: Project, model: str) -> list[Review]:
    """All reviews, in the order of arrival."""
    return [Review(**value) for value in lines(folder_of(project, model) / REVIEWS)[0]]


def to_review(project: Project, model: str) -> list[Given]:
    """What a person should look at and has not since it was said, the latest first."""
    done = {(one.name, one.given_at) for one in reviews(project, model)}
    found = [one for one in all_given(project, model) if one.says_more]
    waiting = [one for one in found if (one.name, one.at) not in done]
    return sorted(waiting, key=lambda one: one.at, reverse=True)


def listed(project: Project, model: str, outcome: str | None = None) -> Iterator[str]:
    """Lines: the figures of each release and what is to be looked at; or, with an `outcome`, the
    notes of the reviews with it."""
    if outcome is not None:
        if outcome not in OUTCOMES:
            raise UserError(f"there is no outcome {outcome!r}; outcomes are {', '.join(OUTCOMES)}")
        yield from (one.note for one in reviews(project, model) if one.outcome == outcome)
        return
    given = all_given(project, model)
    yield from (one.told() for one in figures(given))
    if not given:
        yield f"nobody has rated an answer of {model} yet"
    if damaged := damaged_lines(project, model):
        yield f"{damaged} line(s) below {folder_of(project, model)} are damaged and do not count"
    for one in to_review(project, model):
        said = [f"rated {one.rating}"] if one.rating is not None else []
        about = ", ".join([*said, *one.flags, *(["attached"] if one.attached else [])])
        yield f"  {one.name}: release {one.release}, {one.user}, {one.at}: {about}"
        if one.text:
            yield f"    {' '.join(one.text.split())}"
