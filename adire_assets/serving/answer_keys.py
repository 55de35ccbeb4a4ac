"""The keys with which a fleet's slots sign their answers (see `core.answer_token`).

They lie in the project's home, where only its user can read them; a backup leaves them out. `adire
up` makes the first one.
"""

import json
import os
import secrets
from pathlib import Path

from adire_assets.core import answer_token
from adire_assets.core.disk import writing, written_whole
from adire_assets.core.errors import UserError
from adire_assets.core.files import sync
from adire_assets.core.project import Project

NAME = "answer_keys.json"
KEPT = 5  # keys; tokens of older ones are void
KEY_BYTES = 32
SIGNER = "ADIRE_ANSWER_TOKEN"  # in a slot's environment: the source of `core.answer_token`


def place(project: Project) -> Path:
    return project.home / "feedback" / NAME


def environment(project: Project) -> dict[str, str]:
    """What a slot's server is told."""
    return {
        answer_token.KEYS: str(place(project)),
        SIGNER: answer_token.__file__,
    }


def read(project: Project) -> list[dict[str, str]]:
    """The keys, the one that signs first. UserError when there are none, or they cannot be read."""
    path = place(project)
    try:
        return answer_token.read_keys(path)
    except FileNotFoundError:
        raise UserError(
            f"there are no keys that sign answers ({path}): start the fleet with `adire up`"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}; remove it, and `adire up` makes a key. Answers until now "
            "cannot be rated then"
        ) from None


def ensure(project: Project) -> None:
    """Make the first key where there is none. UserError for a file that is damaged."""
    with project.locks.acquire("answer-keys"):
        if place(project).exists():
            read(project)
        else:
            _write(place(project), [_new()])


def rotate(project: Project, *, drop_old: bool = False) -> str:
    """A new key, which signs from now on; its id. The `KEPT` - 1 before it go on being accepted,
    unless `drop_old`."""
    with project.locks.acquire("answer-keys"):
        known = [] if drop_old or not place(project).exists() else read(project)
        keys = [_new(), *known][:KEPT]
        _write(place(project), keys)
    return keys[0]["id"]


def _new() -> dict[str, str]:
    return {"id": answer_token.new_id(), "key": secrets.token_hex(KEY_BYTES)}


def _write(path: Path, keys: list[dict[str, str]]) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written_whole(path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump({"keys": keys}, stream)
            sync(temporary)
