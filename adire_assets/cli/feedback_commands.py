"""`adire feedback`: what users say of answers, given, listed and reviewed at the terminal."""

from collections.abc import Iterator
from getpass import getuser
from pathlib import Path
from typing import Annotated

import typer

from adire_assets.cli.arguments import By, Model, file_to_read, not_blank
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project

feedback_app = typer.Typer(
    no_args_is_help=True, help="What users say of answers, and what becomes of it."
)


@feedback_app.command("add")
def add(
    file: Annotated[
        Path,
        typer.Argument(
            help="An answer that `adire generate` or the studio has saved.", callback=file_to_read
        ),
    ],
    rating: Annotated[int | None, typer.Option(help="1, bad, to 5, good.")] = None,
    flag: Annotated[
        list[str],
        typer.Option(help="off-style, artefact, wrong fact or unsafe; repeat for several."),
    ] = [],  # noqa: B006 - typer copies it
    text: Annotated[str, typer.Option(help="Remarks.")] = "",
    attach: Annotated[
        bool, typer.Option(help="Keep the prompt and the answer with it, to help mend it.")
    ] = False,
    by: By = None,
) -> Iterator[str]:
    """Rate or report an answer."""
    from adire_assets.core.answer_token import FIELD
    from adire_assets.monitoring import feedback, feedback_watch
    from adire_assets.serving.client import provenance_of

    project = Project.find()
    facts, plug = provenance_of(project, file)
    token = facts.get(FIELD)
    if not isinstance(token, str):
        raise UserError(
            f"{file} has no {FIELD}: the slot that gave it has no keys, or a program has changed "
            "the file; answers of a fleet that `adire up` has started have one"
        )
    kept = feedback.keep(
        project,
        token,
        by or getuser(),
        rating=rating,
        flags=flag,
        text=text,
        part=plug.answers.functions.part(facts),
        attached=file if attach else None,
    )
    yield kept.told()
    said: list[str] = []
    feedback_watch.follow(project, kept.given.model, said.append)
    yield from said


@feedback_app.command("list")
def list_(
    model: Model,
    outcome: Annotated[
        str | None,
        typer.Option(help="Print the notes of reviews with this outcome instead."),
    ] = None,
) -> Iterator[str]:
    """Figures of each release, and what a person should look at."""
    from adire_assets.monitoring import feedback_review, feedback_watch

    project = Project.find()
    yield from feedback_review.listed(project, model, outcome)
    if outcome is None:
        yield from feedback_watch.alarms(project, model)


@feedback_app.command("review")
def review(
    model: Model,
    name: Annotated[str, typer.Argument(help="As `adire feedback list MODEL` names it.")],
    given_at: Annotated[
        str,
        typer.Argument(help="The time beside it there: what is changed later is not reviewed."),
    ],
    outcome: Annotated[str, typer.Option(help="correction, exclusion, prompt or nothing.")],
    note: Annotated[
        str,
        typer.Option(
            help="The correction, the file, the prompt, or why nothing.", callback=not_blank
        ),
    ],
    by: By = None,
) -> str:
    """Say what becomes of feedback, which takes it off the list."""
    from adire_assets.monitoring import feedback_review

    who = by or getuser()
    return feedback_review.review(Project.find(), model, name, given_at, outcome, note, who)


@feedback_app.command("new-key")
def new_key(
    drop_old: Annotated[
        bool, typer.Option(help="Void the tokens of all answers until now.")
    ] = False,
) -> str:
    """Make a key that signs answers from now on; running slots take it at once."""
    from adire_assets.serving import answer_keys

    return f"answers are signed with key {answer_keys.rotate(Project.find(), drop_old=drop_old)}"
