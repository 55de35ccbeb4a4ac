"""Commands of `adire` about a project as a whole: beginning one; making room in its home, backing
it up, restoring it."""

from pathlib import Path
from typing import Annotated

import typer

from adire_assets.cli.arguments import LARGEST_NUMBER, folder_to_make, folder_to_write
from adire_assets.core.project import Project

home_app = typer.Typer()


@home_app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(help="A new or an empty folder.", callback=folder_to_write)
    ],
) -> None:
    """Write a new project: configs, dagster_defs.py, the Triton backend, DVC's files."""
    from adire_assets.ops.new_project import begin

    for line in begin(directory):
        typer.echo(line)


@home_app.command()
def gc(
    keep: Annotated[
        int, typer.Option(min=1, max=LARGEST_NUMBER, help="Latest artifacts of each kind to keep.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Delete what nothing needs: old artifacts but their manifests, caches beyond a limit."""
    from adire_assets.ops.gc import collect_garbage

    for line in collect_garbage(Project.find(), keep, dry_run):
        typer.echo(line)


@home_app.command()
def backup(
    destination: Annotated[
        Path, typer.Argument(help="A new folder, on another disk.", callback=folder_to_make)
    ],
) -> None:
    """Copy what cannot be made again: records, databases, what is live; also while it serves."""
    from adire_assets.ops.backup import backup

    backup(Project.find(), destination, typer.echo)


@home_app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `adire backup` has made.")],
) -> None:
    """Make the project's home again from a backup; the home must be new or empty."""
    from adire_assets.ops.backup import restore

    restore(Project.find(), source, typer.echo)
