"""`adire data`: a change of a model's data, from files to a version that is published."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from adire_assets.cli.arguments import By, Model, Reason, file_to_read
from adire_assets.core.project import Project
from adire_assets.core.worker import print_progress
from adire_assets.gates.approvals import account

data_app = typer.Typer(
    no_args_is_help=True, help="The data of a model: add files, publish, go back to a version."
)


@data_app.command("add")
def data_add(
    model: Model,
    files: Annotated[
        list[Path],
        typer.Argument(help="Files, or zips of them.", callback=file_to_read),
    ],
    by: By = None,
) -> Iterator[str]:
    """Check files by the dataset step's rules, and keep those that it takes in a draft."""
    from adire_assets.ops import data_commit, data_draft

    found = data_draft.place(Project.find(), model, by or account())
    yield from data_commit.recover(found.project)
    for file in files:
        data_draft.add(found, file.name, file)
    yield from data_draft.lines(found, data_draft.check(found, print_progress))


@data_app.command("discard")
def data_discard(model: Model, by: By = None) -> Iterator[str]:
    """Forget the draft."""
    from adire_assets.ops import data_commit, data_draft

    found = data_draft.place(Project.find(), model, by or account())
    yield from data_commit.recover(found.project)
    data_draft.discard(found)
    yield f"{model}: the draft is gone"


@data_app.command("publish")
def data_publish(model: Model, reason: Reason, by: By = None) -> str:
    """Commit the draft: what data.dvc names becomes the data with it."""
    from adire_assets.ops import data_publish

    return data_publish.publish(Project.find(), model, by or account(), reason, print_progress)


@data_app.command("versions")
def data_versions(model: Model) -> Iterator[str]:
    """List the latest versions of a model's data, the newest first."""
    from adire_assets.ops import data_commit, data_publish

    yield from data_commit.recover(Project.find())
    yield from (one.told() for one in data_publish.versions(Project.find(), model))


@data_app.command("back")
def data_back(
    model: Model,
    version: Annotated[str, typer.Argument(help="The beginning of its commit.")],
    reason: Reason,
    by: By = None,
) -> str:
    """Publish the data of an earlier version once more."""
    from adire_assets.ops import data_publish

    words = (version, by or account(), reason, print_progress)
    return data_publish.go_back(Project.find(), model, *words)
