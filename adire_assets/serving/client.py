"""Asking a served model by the first protocol of its family, and where a kept answer comes from.

    answer = ask("127.0.0.1:8080", family("diffusion"), "indigo", {"prompt": "circles", "seed": 7})

What goes in and what comes out is the family's; each answer says its release and its provenance.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family, family_names
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway.protocol import protocol


def ask(
    endpoint: Endpoint | str,
    plug: Family,
    model: str,
    request: Mapping[str, Any],
    release: int | None = None,
    timeout: float = 600.0,
) -> Answer:
    """The answer of the gateway or slot at `endpoint`.

    `release` asks for one release; otherwise the live one answers. `timeout` is in seconds.
    `Unanswered` with the server's own sentence when it refuses, with address and hint when nobody
    answers; UserError when the answer is not one of a release.
    """
    functions = plug.serve.functions
    given = functions.inputs({name: one for name, one in request.items() if one is not None})
    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    client = resolve_name(protocol(plug.protocols[0]).client)
    try:
        answer = client(endpoint, model, given, release, timeout)
        return replace(answer, content=functions.content(answer.content))
    except KeyError as error:
        wrong = f"it lacks {error}"
    except (TypeError, AttributeError, IndexError, ValueError) as error:  # empty, or no JSON
        wrong = str(error)
    raise UserError(
        f"{model} at {endpoint.address} gave an answer that no release of this project gives "
        f"({wrong}); `adire status` shows what is served there"
    )


def read_provenance(path: Path) -> tuple[dict[str, Any], Family]:
    """(the provenance inside the file of an answer, the family whose it is). UserError when there
    is none."""
    refused: list[tuple[bool, UserError]] = []
    for name in family_names():
        try:
            plug = family(name)
        except UserError:
            continue  # a family that cannot be loaded reads nothing
        try:
            return plug.answers.functions.read_provenance(path), plug
        except UserError as error:
            refused.append((path.suffix == plug.served.suffix, error))
    if not refused:
        raise UserError(f"{path}: no family is installed that could read it")
    raise max(refused, key=lambda one: one[0])[1]
