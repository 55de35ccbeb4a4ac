"""Blind ratings: challenger against champion, pair by pair, by who does not know which is which.

The report's A/B sheet saves what was chosen; only the project's secret tells whose side was whose.
The win rate is wins / (wins + losses): a tie decides nothing, so it counts neither for the rate nor
for the pairs that a rating needs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from adire_assets import approvals
from adire_assets.approvals import Entry, content_of, figures
from adire_assets.config import GateConfig, Project
from adire_assets.config_file import Strict
from adire_assets.errors import UserError
from adire_assets.serving import record
from adire_assets.serving.release import ReleaseRecord

HASH_DIGITS = 12  # the least that names a content
Score = Callable[[dict[str, Any], bytes], tuple[int, int, int]]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Rating(Strict):
    """What the report's blind A/B sheet writes. Which side was whose only the secret tells.

    A release is named by its number, as "indigo@3", or by the hash of its evaluation, adapter or
    repository.
    """

    model: Text
    challenger: int | Text
    champion: int | Text
    nonce: Text
    rater: Text
    choices: Annotated[dict[str, Literal["left", "right", "tie"]], Field(min_length=1)]


def read_rating(path: Path) -> Rating:
    """The file of a blind A/B sheet. UserError with what is wrong in it."""
    try:
        return Rating.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}; save it from the report again") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(file)"
        raise UserError(
            f"{path}: {key}: {first['msg'][0].lower()}{first['msg'][1:]}; a rating is the file "
            "that the report's A/B sheet saves"
        ) from None


def count(
    project: Project,
    wanted: ReleaseRecord,
    champion: ReleaseRecord | None,
    path: Path,
    policy: GateConfig,
    score: Score,
) -> dict[str, Any]:
    """The rating in `path` of `wanted` against what is live, if it speaks for `wanted`.

    `score(rating, secret)` gives (wins, losses, ties) of the challenger. UserError when the rating
    is of other releases, too small (its result stays untold, so that the rater can go on), was
    counted before, or lost, which is kept as `rejected`.
    """
    rating, name = read_rating(path), f"release {wanted.number} of {wanted.model}"
    if rating.model != wanted.model or not _names(rating.challenger, wanted):
        raise UserError(f"{path} rates {rating.challenger} of {rating.model}, not {name}")
    if champion is None or not _names(rating.champion, champion):
        live = f"release {champion.number}" if champion else "nothing"
        raise UserError(
            f"{path} rates {name} against {rating.champion}, but {live} is live now; rate a new "
            "sheet, or approve without a rating"
        )
    wins, losses, ties = score(rating.model_dump(), approvals.rating_secret(project))
    decided = wins + losses
    if decided < policy.human_minimum_pairs:
        raise UserError(
            f"{path} decides {decided} pairs ({ties} ties), and human_minimum_pairs asks for "
            f"{policy.human_minimum_pairs}; rate more pairs of the same sheet"
        )
    result = {"wins": wins, "losses": losses, "ties": ties, "rater": rating.rater}
    result |= {"nonce": rating.nonce, "champion": champion.number}
    with approvals.kept(project, wanted):
        for entry in approvals.history(project, wanted.model, wanted.number):
            known = entry.rating or {}
            if (known.get("nonce"), known.get("rater")) == (rating.nonce, rating.rater):
                raise UserError(
                    f"{rating.rater}'s rating of this sheet was counted at {entry.at} "
                    f"({entry.action}: {figures(known)}); once its result is known it is no "
                    "longer blind: let somebody else rate, or make a new sheet"
                )
        if wins / decided < policy.human_win_rate:
            reason = f"{figures(result)}, below the win rate of {policy.human_win_rate:g}"
            content = content_of(wanted)
            entry = Entry("rejected", record.now(), content, rating.rater, reason, result)
            approvals.add(project, wanted, entry)
            raise UserError(
                f"{name} is not approved: {reason}; the rating is kept with the release"
            )
    return result


def _names(value: int | str, wanted: ReleaseRecord) -> bool:
    if value in (wanted.number, str(wanted.number), f"{wanted.model}@{wanted.number}"):
        return True
    return (
        isinstance(value, str)
        and len(value) >= HASH_DIGITS
        and any(digest.startswith(value) for digest in content_of(wanted).values())
    )
