"""Blind ratings: which side of a pair is whose, and what a ratings.json says about the challenger.

    outcomes(ratings, secret)    {pair: "won", "lost" or "tie"}

ratings.json comes from the sheet of `document.ab_sheet`: {model, challenger, champion, nonce,
rater, choices}; `challenger` and `champion` are release numbers, `choices` maps each pair to
"left", "right" or "tie".

Contract: the sheet does not tell the sides. They follow from HMAC-SHA-256 under a secret that never
leaves the project, over the sheet's nonce and the pair's name. The nonce is signed with what the
sheet is about (model, both releases, its pairs), so that a sheet that was not made is not taken.
Counting one file twice is the caller's matter: nonce and rater name a rating.
"""

import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adire_assets.core.errors import UserError

KEYS = ("model", "challenger", "champion", "nonce", "rater", "choices")
CHOICES = ("left", "right", "tie")
TAG_DIGITS = 32
Outcome = Literal["won", "lost", "tie"]


@dataclass(frozen=True)
class Shuffle:
    """One sheet's sides and order; `nonce` is what the page may show of it."""

    secret: bytes
    nonce: str

    @staticmethod
    def draw(
        secret: bytes,
        model: str,
        challenger: int,
        champion: int,
        pairs: Iterable[str],
        salt: str | None = None,
    ) -> "Shuffle":
        """A new one for the pairs of these names; `salt` is drawn unless given."""
        salt = salt or secrets.token_hex(12)
        return Shuffle(secret, _nonce(secret, salt, (model, challenger, champion), pairs))

    def challenger_is_left(self, pair: str) -> bool:
        return _mac(self.secret, "side", self.nonce, pair)[0] % 2 == 0

    def order(self, pairs: Iterable[str]) -> list[str]:
        return sorted(pairs, key=lambda pair: _mac(self.secret, "order", self.nonce, pair))


def rating_outcomes(
    ratings: Mapping[str, Any], secret: bytes, expected: Mapping[str, Any] | None = None
) -> dict[str, Outcome]:
    """What a ratings.json says of the challenger, by pair.

    UserError in one sentence when it is not the complete answer to a sheet that was made with
    `secret`, or differs from `expected`, such as {"model": "indigo", "challenger": 4}.
    """
    _require_shape(ratings)
    for key, wanted in (expected or {}).items():
        if ratings[key] != wanted:
            raise UserError(
                f"these ratings are about {key} {ratings[key]}, not {wanted}; rate the sheet that "
                "belongs to it"
            )
    nonce, choices = ratings["nonce"], ratings["choices"]
    salt, _, rest = nonce.partition(".")
    count = rest.partition(".")[0]
    if count.isdecimal() and len(choices) < int(count):
        raise UserError(
            f"{len(choices)} of {int(count)} pairs are rated; finish the sheet and download "
            "ratings.json again"
        )
    about = (ratings["model"], ratings["challenger"], ratings["champion"])
    if not hmac.compare_digest(nonce.encode(), _nonce(secret, salt, about, choices).encode()):
        raise UserError(
            f"these ratings do not belong to a blind sheet that this project made for release "
            f"{about[1]} of {about[0]} against release {about[2]} (nonce, model, releases or pairs "
            "differ); download ratings.json from the sheet again and do not edit it"
        )
    shuffle = Shuffle(secret, nonce)
    return {pair: _outcome(shuffle, pair, choice) for pair, choice in choices.items()}


def _outcome(shuffle: Shuffle, pair: str, choice: str) -> Outcome:
    if choice == "tie":
        return "tie"
    return "won" if (choice == "left") == shuffle.challenger_is_left(pair) else "lost"


def _require_shape(ratings: Mapping[str, Any]) -> None:
    if not isinstance(ratings, Mapping) or sorted(ratings) != sorted(KEYS):
        raise UserError(
            f"a ratings.json has exactly the keys {', '.join(KEYS)}; download it from the sheet"
        )
    choices = ratings["choices"]
    texts = (ratings["model"], ratings["nonce"], ratings["rater"])
    if not isinstance(choices, Mapping) or not all(isinstance(text, str) for text in texts):
        raise UserError(
            "ratings.json: model, nonce and rater are texts, and choices maps pairs to left, right "
            "or tie; download it from the sheet again"
        )
    if not ratings["rater"].strip():
        raise UserError("ratings.json: rater is empty; say who rated")
    for pair, choice in choices.items():
        if choice not in CHOICES:
            raise UserError(
                f"ratings.json: the choice of pair {pair} is {choice!r}; it is left, right or tie"
            )


def _nonce(secret: bytes, salt: str, about: tuple[Any, ...], pairs: Iterable[str]) -> str:
    names = sorted(pairs)
    tag = _mac(secret, "sheet", salt, json.dumps([about, names])).hex()[:TAG_DIGITS]
    return f"{salt}.{len(names)}.{tag}"


def _mac(secret: bytes, *parts: str) -> bytes:
    return hmac.digest(secret, json.dumps(parts).encode(), "sha256")
