"""Answers with tokens, without a model that gives them."""

import time
from typing import Any

from adire_assets.core import answer_token
from adire_assets.core.answer_token import Claims
from adire_assets.core.project import Project
from adire_assets.serving import answer_keys


def wait_for_a_day() -> None:
    """Let a midnight (UTC) that is near pass: what a test keeps is of one day."""
    while time.time() % 86_400 > 86_400 - 20:
        time.sleep(0.1)


def token_of(
    project: Project,
    model: str,
    release: int = 1,
    contents: tuple[bytes, ...] = (b"x",),
    **more: Any,
) -> str:
    """The token of an answer that a slot of this project would sign; `more` are other claims."""
    answer_keys.ensure(project)
    digests = tuple(answer_token.digest(one) for one in contents)
    claims = {"time": time.time(), "id": answer_token.new_id(), **more}
    found = Claims(model=model, release=release, contents=digests, **claims)
    return answer_token.sign(answer_keys.read(project)[0], found)
