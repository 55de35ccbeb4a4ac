"""The signed token in an answer, by which its reader can rate it.

    v1.<id of the key>.<claims, JSON>.<HMAC-SHA-256 of what stands before>

Both in URL-safe base64. The claims are in clear: model, release, time (seconds since the epoch), a
random id, and the SHA-256 of each part of the answer, such as each image of a request. So a token
is checked without a record of the answers that were given.

A slot signs, and a release takes this module along: it imports nothing of the project. The
environment variable ADIRE_ANSWER_KEYS names the file of the keys, of which the first signs:

    {"keys": [{"id": "...", "key": "<64 hexadecimal digits>"}, ...]}

The file is read for each answer, so that a new key signs without a restart. Where there is no such
file, answers have no token and cannot be rated.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KEYS = "ADIRE_ANSWER_KEYS"
FIELD = "feedback_token"  # of an answer's provenance
VERSION = "v1"
LONGEST = 16_384  # characters of a token
DIGITS = 16  # of a key's id, and of an answer's
KEY = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Claims:
    """What a token says: `contents` are SHA-256 digests in hexadecimal, `time` is when the answer
    was given, in seconds since the epoch."""

    model: str
    release: int
    time: float
    id: str
    contents: tuple[str, ...]


class NotSigned(ValueError):
    """A token that none of the keys has signed, in a clause."""


def digest(content: bytes) -> str:
    """The SHA-256 of a part of an answer, as a token has it."""
    return hashlib.sha256(content).hexdigest()


def told(model: str, release: int, contents: Sequence[str]) -> dict[str, str]:
    """What the provenance of an answer with these digests has besides: {FIELD: token}, or nothing
    where this server has no keys."""
    path = os.environ.get(KEYS)
    try:
        keys = read_keys(Path(path)) if path else []
    except (OSError, ValueError):  # `adire up` says so; an answer is worth more than its rating
        keys = []
    if not keys:
        return {}
    now = Claims(model, release, round(time.time(), 3), new_id(), tuple(contents))
    return {FIELD: sign(keys[0], now)}


def new_id() -> str:
    return secrets.token_hex(DIGITS // 2)


def read_keys(path: Path) -> list[dict[str, str]]:
    """The keys in a file, the one that signs first. ValueError when it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["keys"]
        keys = [{"id": str(one["id"]), "key": str(one["key"])} for one in found]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it holds no keys ({error!r})") from None
    if not keys:
        raise ValueError("it holds no keys")
    for one in keys:
        if not re.fullmatch("[0-9A-Za-z]+", one["id"]) or not KEY.fullmatch(one["key"]):
            raise ValueError(
                "an id has ASCII letters and digits, and a key 64 hexadecimal digits; one has not"
            )
    return keys


def sign(key: dict[str, str], claims: Claims) -> str:
    content = json.dumps(asdict(claims), separators=(",", ":"), ensure_ascii=False).encode()
    text = f"{VERSION}.{key['id']}.{_encoded(content)}"
    return f"{text}.{_signature(key, text)}"


def verify(keys: Sequence[dict[str, str]], token: str) -> Claims:
    """What a token says. `NotSigned` for one that none of these keys has signed."""
    parts = token.split(".")
    if len(token) > LONGEST or len(parts) != 4 or parts[0] != VERSION or not token.isascii():
        raise NotSigned("is none that an answer carries")
    text, _, signature = token.rpartition(".")
    key = next((one for one in keys if one["id"] == parts[1]), None)
    if key is None:
        raise NotSigned("was signed with a key that is not known here any more")
    if not hmac.compare_digest(signature, _signature(key, text)):
        raise NotSigned("was not signed here")
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(_padded(parts[2])))
    return Claims(**{**claims, "contents": tuple(claims["contents"])})


def _signature(key: dict[str, str], text: str) -> str:
    found = hmac.digest(bytes.fromhex(key["key"]), text.encode("ascii"), "sha256")
    return _encoded(found)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
