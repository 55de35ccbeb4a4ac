"""Blind ratings: which side of a pair is whose, and what a ratings.json says about the challenger.

    rating_outcomes(rating, secret)    {pair: "won", "lost" or "tie"}

ratings.json comes from the sheet of `document.ab_sheet`; the studio's Rate page keeps the same
(`gates.sheets`).

Contract: the sheet does not tell the sides. They follow from HMAC-SHA-256 under a secret that never
leaves the project, over the sheet's nonce and the pair's name. The nonce is signed with what the
sheet is about (model, both releases, its pairs), so that a sheet that was not made is not taken.
Counting one file twice is the caller's matter: nonce and rater name a rating.
"""

import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from adire_assets.config.yaml_file import Strict
from adire_assets.core.errors import UserError

TAG_DIGITS = 32
BASE = 0  # as a champion: the bare base, where no release is live
Outcome = Literal["won", "lost", "tie"]
Choice = Literal["left", "right", "tie"]
About = tuple[str, int, int]  # model, challenger, champion
Text = Annotated[str, Field(pattern=r"\S", max_length=1000)]


class Rating(Strict):
    """What a sheet saves; releases are named by their numbers."""

    model: Text
    challenger: int
    champion: int
    nonce: Text
    rater: Text
    choices: Annotated[dict[str, Choice], Field(min_length=1)]


def champion_name(champion: int) -> str:
    """Such as "release 3"."""
    return f"release {champion}" if champion != BASE else "the base"


def read_rating(path: Path) -> Rating:
    """A file that can be read, of a blind A/B sheet. UserError with what is wrong in it."""
    try:
        return Rating.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}; save it from the report again") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(file)"
        raise UserError(
            f"{path}: {key}: {first['msg'][0].lower()}{first['msg'][1:]}; a rating is the file "
            "that the report's A/B sheet saves"
        ) from None


@dataclass(frozen=True)
class Shuffle:
    """One sheet's sides and order; `nonce` is what the page may show of it."""

    secret: bytes
    nonce: str

    @staticmethod
    def draw(secret: bytes, about: About, pairs: Iterable[str]) -> "Shuffle":
        """A new one for the pairs of these names."""
        return Shuffle(secret, _nonce(secret, secrets.token_hex(12), about, pairs))

    def is_of(self, about: About, pairs: Iterable[str]) -> bool:
        """Whether it was drawn with this secret for the pairs of these names."""
        own = _nonce(self.secret, self.nonce.partition(".")[0], about, pairs)
        return hmac.compare_digest(self.nonce.encode(), own.encode())

    def challenger_is_left(self, pair: str) -> bool:
        return _mac(self.secret, "side", self.nonce, pair)[0] % 2 == 0

    def order(self, pairs: Iterable[str]) -> list[str]:
        return sorted(pairs, key=lambda pair: _mac(self.secret, "order", self.nonce, pair))


def rating_outcomes(rating: Rating, secret: bytes) -> dict[str, Outcome]:
    """What a rating says of the challenger, by pair.

    UserError when it is not the complete answer to a sheet that was made with `secret`.
    """
    nonce, choices = rating.nonce, rating.choices
    count = nonce.partition(".")[2].partition(".")[0]
    if count.isdecimal() and len(choices) < int(count):
        raise UserError(
            f"{len(choices)} of {int(count)} pairs are rated; finish the sheet and download "
            "ratings.json again"
        )
    about = (rating.model, rating.challenger, rating.champion)
    shuffle = Shuffle(secret, nonce)
    if not shuffle.is_of(about, choices):
        raise UserError(
            f"these ratings do not belong to a blind sheet that this project made for release "
            f"{about[1]} of {about[0]} against {champion_name(about[2])} (nonce, model, releases "
            "or pairs differ); download ratings.json from the sheet again and do not edit it"
        )
    left = {pair: shuffle.challenger_is_left(pair) for pair in choices}
    return {
        pair: "tie" if choice == "tie" else "won" if (choice == "left") == left[pair] else "lost"
        for pair, choice in choices.items()
    }


def _nonce(secret: bytes, salt: str, about: About, pairs: Iterable[str]) -> str:
    names = sorted(pairs)
    tag = _mac(secret, "sheet", salt, json.dumps([about, names])).hex()[:TAG_DIGITS]
    return f"{salt}.{len(names)}.{tag}"


def _mac(secret: bytes, *parts: str) -> bytes:
    return hmac.digest(secret, json.dumps(parts).encode(), "sha256")
