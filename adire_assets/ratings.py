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
from adire_assets.config import Project
from adire_assets.config_file import Strict
from adire_assets.errors import UserError
from adire_assets.gates_config import GateConfig
from adire_assets.serving import record
from adire_assets.serving.release import ReleaseRecord

Score = Callable[[dict[str, Any], bytes], tuple[int, int, int]]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Rating(Strict):
    """What the report's blind A/B sheet writes; releases are named by their numbers."""

    model: Text
    challenger: int
    champion: int
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
    champion: int | None,
    path: Path,
    policy: GateConfig,
    score: Score,
) -> dict[str, Any]:
    """The rating in `path` of `wanted` against the live release `champion`, if it speaks for it.

    `score(rating, secret)` gives (wins, losses, ties) of the challenger. UserError when the rating
    is of other releases, too small (its result stays untold, so that the rater can go on), was
    counted before, or lost, which is kept as `rejected`.
    """
    rating, name = read_rating(path), f"release {wanted.number} of {wanted.model}"
    if rating.model != wanted.model or rating.challenger != wanted.number:
        raise UserError(f"{path} rates {rating.challenger} of {rating.model}, not {name}")
    if champion is None or rating.champion != champion:
        live = f"release {champion}" if champion else "nothing"
        raise UserError(
            f"{path} rates {name} against release {rating.champion}, but {live} is live now; rate "
            "a new sheet, or approve without a rating"
        )
    wins, losses, ties = score(rating.model_dump(), approvals.rating_secret(project))
    decided = wins + losses
    if decided < policy.human_minimum_pairs:
        raise UserError(
            f"{path} decides {decided} pairs ({ties} ties), and human_minimum_pairs asks for "
            f"{policy.human_minimum_pairs}; decide more of them or rate a larger sheet, or approve "
            "without a rating"
        )
    result = {"wins": wins, "losses": losses, "ties": ties, "rater": rating.rater}
    result |= {"nonce": rating.nonce, "champion": champion}
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
