"""`adire chat`: words to a served model that can chat, answered as they are written.

    adire chat letters "Write to Ada."     one answer
    adire chat letters                     a conversation: a line of the terminal is a turn

What the model says goes to standard output, which release has said it to standard error. A turn
that failed is not part of the conversation.
"""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any

import typer

from adire_assets.cli.arguments import known_model, not_blank
from adire_assets.cli.generate_command import (
    OfRelease,
    OfTarget,
    endpoint_of,
    family_asked,
    require_known,
    with_options,
)
from adire_assets.config.model import models
from adire_assets.core.answer import Answer
from adire_assets.core.errors import UserError
from adire_assets.core.family import family
from adire_assets.core.project import Project

DIM, PLAIN = "\033[2m", "\033[0m"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SIGN = "> "  # before a turn of the user


@with_options(chat=True)
def chat(
    model: Annotated[
        str | None,
        typer.Argument(help="Who answers; needed where several can.", callback=not_blank),
    ] = None,
    text: Annotated[
        str | None,
        typer.Argument(
            help="What to say, in quotes; without, each line that is typed is a turn of one "
            "conversation, and Ctrl-D ends it.",
            callback=not_blank,
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="What stands before the conversation.", callback=not_blank),
    ] = None,
    release: OfRelease = None,
    target: OfTarget = "",
    request: Any = None,
) -> None:
    """Talk to a served model; its answer is shown while it is written."""
    from adire_assets.serving import client

    project = Project.find()
    model, text = _model_and_text(project, model, text)
    plug = family_asked(project, model, release, target)
    client.require_chat(plug)
    require_known(plug, request)
    endpoint = endpoint_of(project, target)
    messages = [{"role": "system", "content": system}] if system else []

    def turn(said: str) -> None:
        asked = [*messages, {"role": "user", "content": said}]
        given = {**request, "prompt": said, "messages": asked}
        answered = _shown(client.stream(endpoint, plug, model, given, release), model)
        messages[:] = [*asked, {"role": "assistant", "content": answered}]

    if text is not None:
        turn(text)
        return
    failed = False
    for said in _turns():
        try:
            turn(said)
            failed = False
        except UserError as error:
            failed = True
            print(f"adire: {error}", file=sys.stderr)
    raise typer.Exit(int(failed))


def _model_and_text(
    project: Project, model: str | None, text: str | None
) -> tuple[str, str | None]:
    """What is talked to, and what is said; one word alone is a model where there is one."""
    if model and text:
        return known_model(model), text
    known, _ = models(project)
    if model in known:
        return model, None
    able = [name for name, config in known.items() if family(config.family).served.chat]
    enabled = [name for name in able if known[name].enabled]
    made = [name for name in able if project.records.list(f"releases/{name}")]
    for found in (enabled, made):
        if len(found) == 1:
            return found[0], model
    raise UserError(
        'say which model, as in `adire chat MODEL "TEXT"`; models that can chat: '
        f"{', '.join(able) or 'none'}"
    )


def _turns() -> Iterator[str]:
    """What the user types, a line each, until the end of the input."""
    if not sys.stdin.isatty():
        yield from (line for line in map(str.strip, sys.stdin) if line)
        return
    import_module("readline")  # lines can be edited, and earlier ones are a key away
    while True:
        try:
            said = input(SIGN).strip()
        except EOFError:
            print(file=sys.stderr)
            return
        if said:
            yield said


def _shown(pieces: Iterator[Answer], model: str) -> str:
    """Write an answer as it comes, then who gave it; the whole of it."""
    text, last = "", None
    try:
        for last in pieces:
            text += last.content
            # A terminal would carry out some of them.
            shown = CONTROLS.sub("", last.content) if sys.stdout.isatty() else last.content
            print(shown, end="", flush=True)
    finally:
        if text:
            print(flush=True)
    if last is None:
        raise UserError(f"{model} gave an empty answer; `adire status` shows how it is")
    told = f"{model}@{last.release} manifest {last.provenance['release_hash']}"
    print(f"{DIM}{told}{PLAIN}" if sys.stderr.isatty() else told, file=sys.stderr)
    return CONTROLS.sub("", text)  # no server takes them in the next turn
