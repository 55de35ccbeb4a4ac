"""What users say of answers: kept by the day, one of each user for each part of an answer.

    <home>/feedback/<model>/<day>.jsonl        one JSON object a line, in the order of arrival (UTC)
    <home>/feedback/<model>/attached/<name>    answers that their readers have attached
    <home>/feedback/<model>/reviews.jsonl      what became of them, see `feedback_review`

A user's second rating replaces the first: both stay in the files, and the last one counts. Prompt
and answer are kept only where the user attaches them. A line is there when `keep` returns; the half
of one that a killed process has left was never acknowledged, and is passed over.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from adire_assets.config.model import load_model
from adire_assets.core import answer_token
from adire_assets.core.disk import writing
from adire_assets.core.errors import UserError
from adire_assets.core.files import sync
from adire_assets.core.folders import temporary_folder
from adire_assets.core.project import Project
from adire_assets.serving import answer_keys
from adire_assets.serving.release import ReleaseRecord, family_of_release, find_record

FLAGS = ("off-style", "artefact", "wrong fact", "unsafe")
LOWEST, HIGHEST, BAD = 1, 5, 2  # of a rating; BAD and what is below
TEXT_CHARACTERS = 2_000
LARGEST_FILE = 2**23  # bytes of an attached answer
RATINGS_A_DAY = 1_000  # of a user, for a model
FILES_A_DAY = 50  # likewise
DAY_SECONDS = 86_400
ATTACHED = "attached"
CLOCKS_DIFFER_SECONDS = 300


@dataclass(frozen=True)
class Given:
    """One user's word on one part of an answer, which counts from 0.

    `at` is when it was given and `made` when the answer was, ISO 8601 in UTC; `attached` is the
    name of a file in attached/.
    """

    at: str
    user: str
    model: str
    release: int
    answer: str
    part: int
    made: str
    rating: int | None
    flags: tuple[str, ...] = ()
    text: str = ""
    attached: str | None = None

    @property
    def name(self) -> str:
        """What tells it from all others; of letters that a file's name may have."""
        return f"{self.answer}-{self.part}-{sha256(self.user.encode()).hexdigest()[:12]}"

    @property
    def is_bad(self) -> bool:
        return bool(self.flags) or (self.rating is not None and self.rating <= BAD)

    @property
    def says_more(self) -> bool:
        """Whether a person should look at it."""
        return self.is_bad or bool(self.text) or self.attached is not None


@dataclass(frozen=True)
class Kept:
    """What was kept, and whether it takes the place of an earlier word of the same user."""

    given: Given
    replaced: bool

    def told(self) -> str:
        """In a sentence."""
        about = f"release {self.given.release} of {self.given.model}"
        return f"thank you: your feedback on {about} {'is changed' if self.replaced else 'is kept'}"


def keep(
    project: Project,
    token: str,
    user: str,
    *,
    rating: int | None = None,
    flags: Iterable[str] = (),
    text: str = "",
    part: int = 0,
    attached: Path | None = None,
    model: str | None = None,
) -> Kept:
    """Keep what `user` says of a part of the answer with this token; `attached` is the file of it
    that the answer was saved as, and `model` whose answer it must be.

    UserError, with nothing kept: for a token that is forged, expired, of another model or of a
    release that is not known here; for a file that is not that answer; for what is out of bounds.
    """
    flags = tuple(dict.fromkeys(flags))
    _require_bounds(rating, flags, text)
    claims, record = _claimed(project, token, model)
    if not 0 <= part < len(claims.contents):
        raise UserError(f"the answer has {len(claims.contents)} part(s), so there is no {part}")
    given = Given(
        at=iso(time.time()),
        user=user,
        model=claims.model,
        release=claims.release,
        answer=claims.id,
        part=part,
        made=iso(claims.time),
        rating=rating,
        flags=flags,
        text=_readable(text),
    )
    folder = folder_of(project, claims.model)
    with (
        _rewritten(project, record, attached, claims.contents[part]) as clean,
        project.locks.acquire(f"feedback-{claims.model}"),
    ):
        mine = [one for one in _of_day(folder, given.at[:10])[0] if one.user == user]
        _require_room(mine, clean is not None)
        if clean is not None:
            given = replace(given, attached=f"{given.name}{clean.suffix}")
            _attach(clean, folder / ATTACHED / f"{given.attached}")
        known = {one.name for one in all_given(project, claims.model, since=given.made[:10])}
        append(folder / f"{given.at[:10]}.jsonl", asdict(given))
        if clean is None:  # what was attached to an earlier word is withdrawn with it
            for old in (folder / ATTACHED).glob(f"{given.name}.*"):
                old.unlink()
    return Kept(given, given.name in known)


def _require_bounds(rating: int | None, flags: Sequence[str], text: str) -> None:
    if rating is None and not flags:
        raise UserError("give a rating of 1 to 5, or a flag")
    whole = isinstance(rating, int) and not isinstance(rating, bool)
    if rating is not None and not (whole and LOWEST <= rating <= HIGHEST):
        raise UserError(f"the rating is {rating!r}, allowed is {LOWEST} to {HIGHEST}")
    for flag in flags:
        if flag not in FLAGS:
            raise UserError(f"there is no flag {flag!r}; flags are {', '.join(FLAGS)}")
    if len(text) > TEXT_CHARACTERS:
        raise UserError(
            f"the text has {len(text)} characters, at most {TEXT_CHARACTERS} are kept; shorten it"
        )


def _readable(text: str) -> str:
    """The text without control characters and the like, which nobody can read."""
    return "".join(one if one.isprintable() or one == "\n" else " " for one in text).strip()


def _claimed(
    project: Project, token: str, model: str | None
) -> tuple[answer_token.Claims, ReleaseRecord]:
    """What a token says, and the record of the release that it names."""
    try:
        claims = answer_token.verify(answer_keys.read(project), token)
    except answer_token.NotSigned as error:
        raise UserError(
            f"the feedback token {error}; send the `{answer_token.FIELD}` of the answer that you "
            "rate as it came"
        ) from None
    name = f"release {claims.release} of {claims.model}"
    if model not in (None, claims.model):
        raise UserError(f"the feedback token is that of an answer of {name}, not of {model}")
    record = find_record(project, claims.model, claims.release)
    if record is None:
        raise UserError(f"the feedback token names {name}, of which this project has no record")
    days = load_model(project, claims.model).monitoring.feedback.token_days
    age = time.time() - claims.time
    if age > days * DAY_SECONDS:
        raise UserError(
            f"the feedback token has expired: an answer can be rated for {days} days "
            "(monitoring.feedback.token_days)"
        )
    if age < -CLOCKS_DIFFER_SECONDS:
        raise UserError(
            f"the feedback token is of {iso(claims.time)}, which is still to come; set the clocks "
            "of slots and studio"
        )
    return claims, record


def _require_room(mine: Sequence[Given], file: bool) -> None:
    """UserError for a user who has said too much today."""
    if len(mine) >= RATINGS_A_DAY:
        raise UserError(
            f"you have rated {RATINGS_A_DAY} answers of this model today; go on tomorrow"
        )
    if file and sum(one.attached is not None for one in mine) >= FILES_A_DAY:
        raise UserError(
            f"you have attached {FILES_A_DAY} answers of this model today; rate without attaching"
        )


@contextmanager
def _rewritten(
    project: Project, record: ReleaseRecord, file: Path | None, digest: str
) -> Iterator[Path | None]:
    """For a while, the file of an answer written anew, so that nothing else in it comes along; None
    for none. UserError when it is not the answer with this digest."""
    if file is None:
        yield None
        return
    plug = family_of_release(project, record)
    if file.stat().st_size > LARGEST_FILE:
        raise UserError(f"the attached file is larger than {LARGEST_FILE:,} bytes")
    folder = folder_of(project, record.model)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with temporary_folder(project, folder / ".new") as scratch:
        clean = scratch / f"answer{plug.served.suffix}"
        if not plug.answers.functions.rewritten(file, clean, digest):
            raise UserError(
                f"the attached {plug.answer} is not the one that is rated; attach it as it was "
                "saved"
            )
        clean.chmod(0o600)
        sync(clean)
        yield clean


def _attach(clean: Path, final: Path) -> None:
    final.parent.mkdir(mode=0o700, exist_ok=True)
    clean.replace(final)
    sync(final.parent)


# --- files ---------------------------------------------------------------------------------------


def folder_of(project: Project, model: str) -> Path:
    """Where a model's feedback lies."""
    return project.home / "feedback" / model


def append(path: Path, value: dict[str, Any]) -> None:
    """Add a line; it has reached the disk when this returns. The caller holds the model's lock."""
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    with writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # behind the half of a line that a killed process has left
            rest = memoryview(line)
            while rest:  # a nearly full disk takes a part, and the next write says why
                rest = rest[file.write(rest) or 0 :]
            os.fsync(descriptor)
        if new:
            sync(path.parent)


def lines(path: Path) -> tuple[tuple[dict[str, Any], ...], int]:
    """(the objects of a file, how many lines are none)."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return (), 0
    version, held = (facts.st_size, facts.st_mtime_ns), _held(path)
    if held.get("version") != version:
        held |= {"version": version, "lines": (found := _parsed(path, facts.st_size))}
        return found
    return held["lines"]


@lru_cache(maxsize=256)
def _held(path: Path) -> dict[str, Any]:
    """What `lines` has read of a file, which only grows: most days are over."""
    return {}


def _parsed(path: Path, size: int) -> tuple[tuple[dict[str, Any], ...], int]:
    text = path.read_bytes()[:size].decode("utf-8", errors="replace")
    found, damaged = [], 0
    for line in filter(None, text.split("\n")):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            damaged += 1
    return tuple(found), damaged


def _of_day(folder: Path, day: str) -> tuple[list[Given], int]:
    """(what was given on a day, in the order of arrival, how many lines are damaged)."""
    found, damaged = lines(folder / f"{day}.jsonl")
    given = []
    for value in found:
        try:
            given.append(Given(**{**value, "flags": tuple(value["flags"])}))
        except (TypeError, KeyError):
            damaged += 1
    return given, damaged


def _last(given: Iterable[Given]) -> list[Given]:
    """The last word of each user on each part, in the order of the first."""
    return list({one.name: one for one in given}.values())


def days(project: Project, model: str) -> list[str]:
    """The days on which something was given, as 2026-01-31, ascending."""
    return sorted(path.stem for path in folder_of(project, model).glob("????-??-??.jsonl"))


def of_day(project: Project, model: str, day: str) -> list[Given]:
    """The last words of a day."""
    return _last(_of_day(folder_of(project, model), day)[0])


def all_given(project: Project, model: str, since: str = "") -> list[Given]:
    """The last words of all days, or of those from `since` on."""
    folder, found = folder_of(project, model), days(project, model)
    return _last(one for day in found if day >= since for one in _of_day(folder, day)[0])


def damaged_lines(project: Project, model: str) -> int:
    """How many lines of a model's files are not what was written."""
    folder = folder_of(project, model)
    return sum(_of_day(folder, day)[1] for day in days(project, model))


def attachment(project: Project, model: str, name: str) -> Path | None:
    """The attached file of the feedback `name`; None where there is none."""
    if not re.fullmatch(r"[\w-]+", name):
        return None
    return next((folder_of(project, model) / ATTACHED).glob(f"{name}.*"), None)


def iso(seconds: float) -> str:
    """A time in seconds since the epoch, ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
