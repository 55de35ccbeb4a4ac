"""Commands of `adire` about a project as a whole, and those that write files for others."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from adire_assets.cli.arguments import (
    LARGEST_NUMBER,
    By,
    Model,
    Reason,
    Release,
    file_to_read,
    file_to_write,
    finite,
    folder_to_make,
    folder_to_write,
)
from adire_assets.config.fleet import load_fleet
from adire_assets.core.project import Project
from adire_assets.core.worker import print_progress

file_app = typer.Typer()


@file_app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(help="A new or an empty folder.", callback=folder_to_write)
    ],
) -> Iterable[str]:
    """Write a new project: configs, dagster_defs.py, the Triton backend, DVC's files."""
    from adire_assets.ops.new_project import begin

    return begin(directory)


@file_app.command()
def gc(
    keep: Annotated[
        int, typer.Option(min=1, max=LARGEST_NUMBER, help="Latest artifacts of each kind to keep.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be deleted.")] = False,
) -> Iterable[str]:
    """Delete what nothing needs: old artifacts (manifests stay), and caches beyond a limit."""
    from adire_assets.ops.gc import collect_garbage

    return collect_garbage(Project.find(), keep, dry_run)


@file_app.command()
def backup(
    destination: Annotated[
        Path, typer.Argument(help="A new folder, on another disk.", callback=folder_to_make)
    ],
) -> None:
    """Copy what cannot be made again: records, databases, live releases; also while serving."""
    from adire_assets.ops.backup import backup

    backup(Project.find(), destination, print_progress)


@file_app.command()
def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `adire backup` has made.")],
) -> None:
    """Make the project's home again from a backup; the home must be new or empty."""
    from adire_assets.ops.backup import restore

    restore(Project.find(), source, print_progress)


@file_app.command("export")
def export_adapter(
    release: Release,
    out: Annotated[
        Path,
        typer.Option(
            help="What to write: a file, or a new folder, as the format is.",
            callback=file_to_write,
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(help="A format of the model's family; default: the family's own."),
    ] = None,
) -> str:
    """Write a release's LoRA for another program, with its provenance."""
    from adire_assets.ops import exchange

    return f"{out}: {exchange.export(Project.find(), release, format, out)}"


@file_app.command("import")
def import_adapter(
    file: Annotated[
        Path,
        typer.Argument(help="A LoRA, in a format of the model's family.", callback=file_to_read),
    ],
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder to write.", callback=folder_to_make)],
) -> str:
    """Check a LoRA file against a model's base, and write it as an adapter folder of its family."""
    from adire_assets.ops import exchange

    return f"{out}: from the format {exchange.import_(Project.find(), file, model, out)}"


@file_app.command()
def uses(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:LINE]",
            help="An image or a file of records, by its path below the project; with a line one "
            "record in it, such as data/letters/letters.jsonl:12.",
        ),
    ],
) -> Iterable[str]:
    """List the datasets, adapters and releases that use an image or record, by its content."""
    from adire_assets.ops.uses import uses

    return uses(Project.find(), what)


@file_app.command()
def takedown(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:LINE]",
            help="An image, by its path below the project, or one record, such as "
            "data/letters/letters.jsonl:12.",
        ),
    ],
    reason: Reason,
    by: By = None,
) -> Iterable[str]:
    """Exclude an image or a record from all datasets to come, and quarantine the releases that rest
    on it. configs/takedowns.yaml lists what is excluded; commit it."""
    from adire_assets.ops.takedown import take_down

    return take_down(Project.find(), what, reason, by)


@file_app.command()
def reproduce(
    what: Annotated[
        str, typer.Argument(help="A release, such as indigo@3, or the file of an answer.")
    ],
) -> None:
    """Make a release's adapter again from its manifest; exit status 1 when other bits come out."""
    from adire_assets.ops.reproduce import reproduce

    made = reproduce(Project.find(), what, print_progress)
    print_progress(made.sentence())
    raise typer.Exit(int(made.difference is not None))


@file_app.command()
def prometheus(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Where to write prometheus.yml and its rules.", callback=folder_to_write
        ),
    ],
) -> Iterable[Path]:
    """Write what a Prometheus needs to watch this fleet: scrape config, rules, alerts."""
    from adire_assets.serving.fleet.needed import needed
    from adire_assets.serving.gateway import prometheus

    project = Project.find()
    return prometheus.write(needed(project, load_fleet(project)), folder)


@file_app.command()
def boards(
    folder: Annotated[
        Path, typer.Argument(help="Where to write the boards.", callback=folder_to_write)
    ],
    prometheus: Annotated[
        str, typer.Option(help="The address of the Prometheus that Grafana asks.")
    ] = "http://127.0.0.1:9090",
) -> Iterable[Path]:
    """Write what a Grafana needs to show this fleet: its boards, and their provisioning."""
    from adire_assets.monitoring import boards

    return boards.write(folder, prometheus)


@file_app.command()
def watch(
    seconds: Annotated[
        float,
        typer.Option(
            min=0.5, max=300, help="How long to look before saying something.", callback=finite
        ),
    ] = 5.0,
) -> Iterable[str]:
    """Say how fast, how busy and how costly what is served is, over the next seconds."""
    from adire_assets.monitoring.watch import watch

    project = Project.find()
    return watch(project, load_fleet(project), seconds)
