"""`adire`: the line, the fleet and the releases from the terminal.

Every command is a few lines around the core. A user's mistake is one sentence on standard error and
exit status 1. Heavy libraries are imported by the commands that need them.
"""

import gc
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from adire_assets.cli.arguments import (
    LARGEST_NUMBER,
    By,
    Evaluation,
    Model,
    Number,
    Reason,
    Release,
    file_to_read,
    file_to_write_as,
    files_to_read,
    one_release,
    require_text,
)
from adire_assets.cli.file_commands import file_app
from adire_assets.cli.generate_command import generate
from adire_assets.cli.home_commands import home_app
from adire_assets.cli.serving_commands import auth_app, rollout_app
from adire_assets.config.fleet import load_fleet
from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project

FEW_COLLECTIONS = 50_000  # objects that are new since the last one

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # mistakes as plain lines
    help="From DVC-versioned data to a live, traceable model.",
)
app.add_typer(file_app)  # commands beside those below
app.add_typer(home_app)
app.add_typer(rollout_app, name="rollout")
app.add_typer(auth_app, name="auth")
if find_spec("adire_assets.embedded"):  # a package without it has none of its commands
    from adire_assets.cli.embedded_commands import embedded_app

    app.add_typer(embedded_app)


def main() -> None:
    """The entry point of the console script."""
    # Nearly all that a command makes is what it imports, and that stays.
    gc.set_threshold(FEW_COLLECTIONS)
    try:
        require_text(sys.argv[1:])
        app()
    except UserError as error:
        print(f"adire: {error}", file=sys.stderr)
    except Exception as error:
        sentence = refusal(error)
        if sentence is None:
            raise
        print(f"adire: {sentence}", file=sys.stderr)
    else:
        return
    sys.exit(1)


@app.command()
def pull() -> None:
    """Fetch the sample data and base models that the .dvc files name."""
    from adire_assets.ops import operations

    operations.pull(Project.find(), say)


@app.command()
def materialize(
    model: Model,
    select: Annotated[
        str | None,
        typer.Option(
            help="Assets, comma separated, as `dagster asset materialize` takes them but without "
            "the model's name: lora_weights+, *deployed_model; default: the whole line."
        ),
    ] = None,
) -> None:
    """Bring a model from its data to live, or make only the selected assets."""
    from adire_assets.defs.run import materialize as run

    run(Project.find(), model, select)


@app.command()
def search(
    model: Model,
    trials: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="In all; default: the YAML's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The YAML with the best; default: in the project's home.",
            callback=file_to_write_as(".yaml"),
        ),
    ] = None,
) -> None:
    """Look for training settings in the ranges of the section `search`; goes on if killed."""
    from adire_assets.ops import search as core

    core.search(Project.find(), model, trials, out, say)


app.command()(generate)


@app.command()
def status() -> None:
    """What is live and why, what is stale, and how the processes are."""
    from adire_assets.ops import operations

    for line in operations.status(Project.find()):
        say(line)


@app.command()
def trace(
    file: Annotated[
        Path,
        typer.Argument(
            help="A file that `adire generate` wrote.",
            callback=file_to_read,
        ),
    ],
) -> None:
    """From an answer to its release, commit, data, hyperparameters, MLflow run and scores."""
    from adire_assets.ops import operations

    for line in operations.trace(Project.find(), file):
        say(line)


@app.command()
def report(
    name: Evaluation,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The HTML to write; default: in the project's home.",
            callback=file_to_write_as(".html", ".htm"),
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option(help="Instead a blind A/B sheet against the champion, to be rated.")
    ] = False,
) -> None:
    """Write an evaluation as one HTML file: verdict, gates, samples, speed, lineage."""
    from adire_assets.gates.report import pages

    if blind:
        path, rule = pages.blind_sheet(Project.find(), name, output)
        say(f"{path}: {rule}")
    else:
        say(str(pages.report(Project.find(), name, output)))


@app.command()
def measure(name: Evaluation) -> None:
    """Time an evaluation's answers once more; the median of all measurements decides."""
    from adire_assets.ops import operations

    say(operations.measure(Project.find(), name, say))


@app.command()
def approve(
    release: Annotated[
        str,
        typer.Argument(
            help="A release that waits, such as indigo@3.",
            callback=one_release,
        ),
    ],
    reason: Reason,
    by: By = None,
    ratings: Annotated[
        list[Path] | None,
        typer.Option(
            help="A rating saved from the report's blind A/B sheet; once for each of several.",
            callback=files_to_read,
        ),
    ] = None,
) -> None:
    """Let a release go live whose model asks for a person (human_approval: required)."""
    from adire_assets.gates import approval_commands

    say(approval_commands.approve(Project.find(), release, reason, by, ratings or [], say))


@app.command()
def revoke(
    release: Annotated[
        str,
        typer.Argument(
            help="An approved release that is not live yet.",
            callback=one_release,
        ),
    ],
    reason: Reason,
    by: By = None,
) -> None:
    """Take an approval back."""
    from adire_assets.gates import approval_commands

    say(approval_commands.revoke(Project.find(), release, reason, by, say))


@app.command()
def golden(release: Release) -> None:
    """Make a release's golden answers with the software of now; exit status 1 when they changed."""
    from adire_assets.gates import upgrades

    sentence, comparison = upgrades.golden(Project.find(), release, say)
    for line in comparison.sentences():
        say(f"  {line}")
    say(sentence)
    if comparison.changed:
        raise typer.Exit(1)


@app.command()
def rollback(
    model: Model,
    reason: Reason,
    to: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_NUMBER, help="Default: the release before."),
    ] = None,
) -> None:
    """End a rollout, or go back to an earlier release; the one that is left is quarantined."""
    from adire_assets.line import deploy

    for state in deploy.roll_back(Project.find(), model, to, reason, say):
        say(f"{model}: {state.live_text} is live on {state.target}")


@app.command("lift-quarantine")
def lift_quarantine(model: Model, release: Number, reason: Reason) -> None:
    """Let a release that was rolled back be deployed again."""
    from adire_assets.serving import record

    record.lift_quarantine(Project.find(), model, release, reason)
    say(f"{model}: release {release} may be deployed again")


@app.command()
def up(
    only: Annotated[
        Literal["all", "serving"], typer.Option(help="serving: without the Dagster UI.")
    ] = "all",
) -> None:
    """Start slots, gateway, Dagster UI and the sensors' daemon, supervised, in the background."""
    from adire_assets.serving.fleet import processes

    project = Project.find()
    processes.up(project, load_fleet(project), only=only, progress=say)


@app.command()
def down() -> None:
    """Stop what `up` started."""
    from adire_assets.serving.fleet import processes

    project = Project.find()
    processes.down(project, load_fleet(project))


@app.command()
def demo() -> None:
    """Run the whole line on the embedded defaults, and ask the live model."""
    from adire_assets.defs.run import materialize as bring_live
    from adire_assets.ops import operations

    operations.demo(Project.find(), bring_live, say)


def say(message: str, shown: Path | None = None, **numbers: float) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    main()
