"""Commands of `adire` that write files for others, or make again what a file came from."""

from pathlib import Path
from typing import Annotated

import typer

from adire_assets.cli.arguments import (
    Release,
    file_to_read,
    file_to_write,
    folder_to_make,
    folder_to_write,
    known_model,
)
from adire_assets.config.fleet import load_fleet
from adire_assets.core.project import Project

file_app = typer.Typer()


@file_app.command("export")
def export_adapter(
    release: Release,
    out: Annotated[
        Path, typer.Option(help="The .safetensors file to write.", callback=file_to_write)
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="For which programs, by the names of the model's family; default: its own."
        ),
    ] = None,
) -> None:
    """Write a release's LoRA to a file for another program, with where it comes from."""
    from adire_assets.ops import exchange

    typer.echo(f"{out}: {exchange.export(Project.find(), release, format, out)}")


@file_app.command("import")
def import_adapter(
    file: Annotated[
        Path,
        typer.Argument(help="A LoRA, in a format of the model's family.", callback=file_to_read),
    ],
    model: Annotated[
        str, typer.Argument(help="The model whose base it is for.", callback=known_model)
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.", callback=folder_to_make)],
) -> None:
    """Check a LoRA file against a model's base, and write it as a folder of its family."""
    from adire_assets.ops import exchange

    typer.echo(f"{out}: from the format {exchange.import_(Project.find(), file, model, out)}")


@file_app.command()
def reproduce(
    what: Annotated[
        str, typer.Argument(help="A release, such as indigo@3, or the file of an answer.")
    ],
) -> None:
    """Make a release's adapter again from its manifest; exit status 1 when other bits come out."""
    from adire_assets.core.worker import print_progress
    from adire_assets.ops.reproduce import reproduce

    made = reproduce(Project.find(), what, print_progress)
    typer.echo(made.sentence())
    if made.difference:
        raise typer.Exit(1)


@file_app.command()
def prometheus(
    folder: Annotated[
        Path,
        typer.Argument(help="Where prometheus.yml and its rules go.", callback=folder_to_write),
    ],
) -> None:
    """Write what a Prometheus needs to watch this fleet: scrape config, names, alerts."""
    from adire_assets.serving.gateway import prometheus

    for path in prometheus.write(load_fleet(Project.find()), folder):
        typer.echo(str(path))
