"""`adire`: the line, the fleet and the releases from the terminal.

Every command is a few lines around the core; the lines that it returns are printed. A user's
mistake is one sentence on standard error and exit status 1. Heavy libraries are imported by the
commands that need them.
"""

import gc
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adire_assets.cli.arguments import (
    LARGEST_NUMBER,
    By,
    Evaluation,
    Model,
    Number,
    OneRelease,
    Reason,
    Release,
    file_to_read,
    finite,
    folder_to_write,
    html_to_write,
    known_model,
    not_blank,
    require_text,
    yaml_to_write,
)
from adire_assets.cli.chat_command import chat
from adire_assets.cli.data_commands import data_app
from adire_assets.cli.feedback_commands import feedback_app
from adire_assets.cli.file_commands import file_app
from adire_assets.cli.generate_command import generate
from adire_assets.config import roles
from adire_assets.config.fleet import load_fleet
from adire_assets.core.disk import refusal
from adire_assets.core.errors import UserError
from adire_assets.core.project import Project
from adire_assets.core.worker import print_progress as say

FEW_COLLECTIONS = 50_000  # objects that are new since the last one
AUTH_FOLDER = Path("auth")
AuthFolder = Annotated[
    Path, typer.Option(help="Where private.pem and keys.json lie.", callback=folder_to_write)
]


def say_all(lines: Iterable[Any] | None, **_: Any) -> None:
    """Print what a command returned."""
    for line in [lines] if isinstance(lines, str) else lines or ():
        say(str(line))


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # mistakes as plain lines
    help="From DVC-versioned data to a live, traceable model.",
    result_callback=say_all,
)
rollout_app = typer.Typer(
    no_args_is_help=True, help="A rollout: how a release takes over the traffic."
)
auth_app = typer.Typer(
    no_args_is_help=True, help="Keys and tokens of those who may use the gateway."
)
app.add_typer(file_app)  # commands beside those below
app.add_typer(rollout_app, name="rollout")
app.add_typer(auth_app, name="auth")
app.add_typer(feedback_app, name="feedback")
app.add_typer(data_app, name="data")
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
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else refusal(error)
        if sentence is None:
            raise
        print(f"adire: {sentence}", file=sys.stderr)
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
    from adire_assets.defs.run import materialize

    materialize(Project.find(), model, select)


@app.command()
def runs(model: Model) -> Iterable[str]:
    """How the latest run of a model stands, how far its training is, and what has changed since."""
    from adire_assets.ops import training

    return training.lines(Project.find(), model)


@app.command()
def search(
    model: Model,
    trials: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Trials in all; default: the YAML's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The YAML to write; default: in the home.", callback=yaml_to_write),
    ] = None,
) -> None:
    """Look for training settings in the ranges of the section `search`; resumes after a kill."""
    from adire_assets.ops.search import search

    search(Project.find(), model, trials, out, say)


app.command()(generate)
app.command()(chat)


@app.command()
def status() -> Iterable[str]:
    """What is live and why, what is stale, and how the processes are."""
    from adire_assets.ops import operations

    return operations.status(Project.find())


@app.command()
def trace(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A file that `adire generate` wrote, or an answer as its client saved it.",
            callback=file_to_read,
        ),
    ] = None,
    answer: Annotated[
        Path | None,
        typer.Option(help="The same file, named as an option.", callback=file_to_read),
    ] = None,
) -> Iterable[str]:
    """From an answer to its release, commit, data, hyperparameters, MLflow run and scores."""
    from adire_assets.ops import operations

    if file and answer:
        raise UserError(f"name one file, {file} or {answer}")
    named = file or answer
    if named is None:
        raise UserError("name the file of an answer, as in `adire trace answer.json`")
    return operations.trace(Project.find(), named)


@app.command()
def report(
    name: Evaluation,
    output: Annotated[
        Path | None,
        typer.Option(help="The HTML to write; default: in the home.", callback=html_to_write),
    ] = None,
    blind: Annotated[
        bool,
        typer.Option(help="Write a blind A/B sheet against the champion instead, to be rated."),
    ] = False,
) -> str:
    """Write an evaluation as one HTML file: verdict, gates, samples, speed, lineage."""
    from adire_assets.gates.report import pages

    if blind:
        return "{}: {}".format(*pages.blind_sheet(Project.find(), name, output))
    return str(pages.report(Project.find(), name, output))


@app.command()
def measure(name: Evaluation) -> str:
    """Time an evaluation's answers once more; the median of all measurements decides."""
    from adire_assets.ops import operations

    return operations.measure(Project.find(), name, say)


@app.command()
def approve(
    release: OneRelease,
    reason: Reason,
    by: By = None,
    ratings: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file saved from the blind sheet; repeat for several.", callback=file_to_read
        ),
    ] = None,
    count_ratings: Annotated[
        bool,
        typer.Option(
            "--count-ratings", help="Only if the ratings handed in on the Rate page speak for it."
        ),
    ] = False,
) -> str:
    """Approve a release that waits for a person (human_approval: required)."""
    from adire_assets.gates import approval_commands

    return approval_commands.approve(
        Project.find(), release, reason, by, ratings or [], say, count=count_ratings
    )


@app.command()
def revoke(release: OneRelease, reason: Reason, by: By = None) -> str:
    """Take back the approval of a release that is not live yet."""
    from adire_assets.gates import approval_commands

    return approval_commands.revoke(Project.find(), release, reason, by, say)


@app.command()
def golden(release: Release) -> None:
    """Make a release's golden answers with today's software; exit status 1 when they changed."""
    from adire_assets.gates import upgrades

    sentence, comparison = upgrades.golden(Project.find(), release, say)
    say_all([*(f"  {line}" for line in comparison.sentences()), sentence])
    raise typer.Exit(int(comparison.changed))


@app.command()
def rollback(
    model: Model,
    reason: Reason,
    to: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_NUMBER, help="Default: the release before.")
    ] = None,
) -> Iterable[str]:
    """End a rollout, or go back to an earlier release; the release that goes is quarantined."""
    from adire_assets.line import deploy

    for state in deploy.roll_back(Project.find(), model, to, reason, say):
        yield f"{model}: {state.live_text} is live on {state.target}"


@app.command("lift-quarantine")
def lift_quarantine(model: Model, release: Number, reason: Reason) -> str:
    """Let a quarantined release be deployed again."""
    from adire_assets.gates import contents

    contents.lift_quarantine(Project.find(), model, release, reason)
    return f"{model}: release {release} may be deployed again"


@app.command()
def up(
    only: Annotated[
        Literal["all", "serving"], typer.Option(help="serving: without Dagster and the studio.")
    ] = "all",
) -> None:
    """Start slots, gateway, Dagster UI and daemon, and the studio, supervised in the background."""
    from adire_assets.serving.fleet import processes

    project = Project.find()
    processes.up(project, load_fleet(project), only=only, progress=say)


@app.command()
def studio() -> None:
    """Serve the studio, web pages for designers and operators, until Ctrl-C; `up` starts it too."""
    from adire_assets.studio.app import serve

    project = Project.find()
    serve(project, load_fleet(project))


@app.command(hidden=True)
def quality(target: str, share: float) -> None:
    """Measure a share of the answers that users of a target get, until Ctrl-C; `up` starts it."""
    from adire_assets.monitoring.quality import watch

    project = Project.find()
    fleet = load_fleet(project)
    if target not in fleet.targets:
        raise UserError(f"there is no target {target}; targets: {', '.join(fleet.targets)}")
    watch(project, fleet, target, share, say)


@app.command()
def down() -> None:
    """Stop what `up` started."""
    from adire_assets.serving.fleet import processes

    project = Project.find()
    processes.down(project, load_fleet(project))


@app.command()
def demo(
    model: Annotated[
        str, typer.Argument(help="Default: the one enabled model.", callback=known_model)
    ] = "",
    label: Annotated[str, typer.Option(help="What the last line begins with.")] = "demo",
) -> None:
    """Run the whole line of a model on the embedded defaults, and ask what is live."""
    from adire_assets.config.model import only_model
    from adire_assets.defs.run import materialize
    from adire_assets.ops import operations

    project = Project.find()
    operations.demo(project, model or only_model(project), materialize, say, label)


@rollout_app.command("watch")
def rollout_watch(model: Model) -> Iterable[str]:
    """Carry out the rollout that is under way, or follow the process that does."""
    from adire_assets.line import deploy

    for state in deploy.watch_rollout(Project.find(), model, say):
        yield f"{model}: {state.live_text} is live on {state.target}"


@rollout_app.command("promote")
def rollout_promote(model: Model, reason: Reason) -> Iterable[str]:
    """Let a rollout that is on hold or waits go on to its next step."""
    from adire_assets.line import deploy

    return deploy.promote(Project.find(), model, reason, say)


@auth_app.command("keys")
def auth_keys(
    drop_old: Annotated[
        bool, typer.Option(help="Remove earlier keys, so that their tokens become void.")
    ] = False,
    folder: AuthFolder = AUTH_FOLDER,
) -> str:
    """Make a key that signs tokens, and add its public part to the gateway's keys.json."""
    from adire_assets.serving.gateway import tokens

    return f"{folder}/keys.json: added key {tokens.make_keys(folder, drop_old=drop_old)}"


@auth_app.command("token")
def auth_token(
    subject: Annotated[str, typer.Argument(help="Who will use it.", callback=not_blank)],
    days: Annotated[
        float, typer.Option(min=0.001, max=3650, help="How long it is valid.", callback=finite)
    ] = 30.0,
    issuer: Annotated[str, typer.Option(help="Its claim iss.", callback=not_blank)] = "adire",
    audience: Annotated[str, typer.Option(help="Its claim aud.", callback=not_blank)] = "adire",
    role: Annotated[
        list[str],
        typer.Option(
            help="In the studio: viewer, designer, operator or approver; repeat for several.",
            callback=roles.checked,
        ),
    ] = [],  # noqa: B006 - typer copies it
    folder: AuthFolder = AUTH_FOLDER,
) -> str:
    """Sign a token and print it; it is kept nowhere."""
    from adire_assets.serving.gateway import tokens

    claims = {"issuer": issuer, "audience": audience}
    return tokens.issue(folder, subject, **claims, days=days, roles=role)
