"""Asking a served model by the first protocol of its family, and where a kept answer comes from.

    answer = ask("127.0.0.1:8080", family("diffusion"), "indigo", {"prompt": "circles", "seed": 7})

What goes in and what comes out is the family's; each answer says its release and its provenance.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.family import Family, family, family_names
from adire_assets.core.project import Project
from adire_assets.serving.connection import Endpoint
from adire_assets.serving.gateway.protocol import protocol
from adire_assets.serving.release import find_record, provenance, stream_name

ONLY_NAMED = {"model", "release", "release_hash"}  # what an answer tells that tells no more


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
    with _of_a_release(endpoint, model):
        answer = client(endpoint, model, given, release, timeout)
        return replace(answer, content=functions.content(answer.content))


def require_chat(plug: Family) -> None:
    """UserError for a family whose answers do not come in pieces of text."""
    if not plug.served.chat or not protocol(plug.protocols[0]).stream:
        raise UserError(
            f"models of the family {plug.name} do not chat, each answers with one {plug.answer}; "
            'ask one with `adire generate "..."`'
        )


def stream(
    endpoint: Endpoint | str,
    plug: Family,
    model: str,
    request: Mapping[str, Any],
    release: int | None = None,
    timeout: float = 600.0,
) -> Iterator[Answer]:
    """The answer in pieces, as they come; the `content` of each is what the family makes of it, of
    a text the text, and the last one's provenance is whole.

    `timeout` is between two pieces; else as `ask`. `Unanswered` also for one that breaks off.
    """
    name = stream_name(model) if plug.streams else model
    functions = plug.serve.functions
    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    given = functions.inputs({name: one for name, one in request.items() if one is not None})
    client = resolve_name(protocol(plug.streams or plug.protocols[0]).stream)
    with _of_a_release(endpoint, name):
        for answer in client(endpoint, name, given, release, timeout):
            told = {**answer.provenance, "model": model}
            yield replace(answer, content=functions.piece(answer.content), provenance=told)


@contextmanager
def _of_a_release(endpoint: Endpoint, model: str) -> Iterator[None]:
    """UserError when what is read inside is no answer of a release."""
    try:
        yield
        return
    except KeyError as error:
        wrong = f"it lacks {error}"
    except (TypeError, AttributeError, IndexError, ValueError) as error:  # empty, or no JSON
        wrong = str(error)
    raise UserError(
        f"{model} at {endpoint.address} gave an answer that no release of this project gives "
        f"({wrong}); `adire status` shows what is served there"
    )


def provenance_of(project: Project, path: Path) -> tuple[dict[str, Any], Family]:
    """(where the answer in a file comes from, the family whose it is). What an answer that only
    names its release comes from is told by this project's record of that.

    UserError when the file is no answer of a release, or names one that is not of this project.
    """
    facts, plug = _read_provenance(path)
    if set(facts) != ONLY_NAMED:
        return facts, plug
    name = f"{facts['model']}@{facts['release']}"
    record = find_record(project, facts["model"], facts["release"])
    if record is None:
        raise UserError(
            f"{path} is an answer of {name}, of which this project has no record: it was made "
            "elsewhere, so trace it in the project that serves it"
        )
    then, here = facts["release_hash"], record.repository["content_hash"]
    if not here.startswith(then):
        raise UserError(
            f"{path} is an answer of a {name} whose content is {then[:16]}, and that of this "
            f"project is {here[:16]}: it was made elsewhere, so trace it in the project that "
            "serves it"
        )
    return provenance(record), plug


def _read_provenance(path: Path) -> tuple[dict[str, Any], Family]:
    kinds = []
    for name in family_names():
        try:
            plug = family(name)
        except UserError:
            continue  # a family that cannot be loaded reads nothing
        if (found := plug.answers.functions.read_provenance(path)) is not None:
            return found, plug
        kinds.append(f"{plug.answer} ({plug.served.suffix})")
    if not kinds:
        raise UserError(f"{path}: no family is installed that could read it")
    raise UserError(
        f"{path} is no {' or '.join(kinds)} of a served model: name a file by `adire generate`, "
        "or an answer as its client saved it"
    )
