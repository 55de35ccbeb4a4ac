"""`adire`: the line, the fleet and the releases from the terminal.

Every command is a few lines around the core. A user's mistake is one sentence on standard error and
exit status 1. Heavy libraries are imported by the commands that need them.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from adire_assets.config import Project, load_model, model_names
from adire_assets.errors import UserError
from adire_assets.fleet_config import load_fleet

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From DVC-versioned images to a live, traceable Triton model.",
)
base_model_app = typer.Typer(no_args_is_help=True, help="The embedded tiny Stable Diffusion.")
app.add_typer(base_model_app, name="base-model")

Model = Annotated[str, typer.Argument(help="A model of configs/models, for example indigo.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the record.")]


def main() -> None:
    """The entry point of the console script."""
    try:
        app()
    except UserError as error:
        print(f"adire: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def pull() -> None:
    """Fetch the sample data and base models that the .dvc files name."""
    from adire_assets import operations

    operations.pull(Project.find(), say)


@app.command()
def materialize(
    model: Model,
    select: Annotated[
        str | None, typer.Option(help="Assets, comma separated; default: the whole line.")
    ] = None,
) -> None:
    """Bring a model from its data to live, or make only the selected assets."""
    from adire_assets.defs.run import materialize as run

    run(Project.find(), model, select.split(",") if select else None)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Annotated[str, typer.Option(help="Default: the one enabled model.")] = "",
    out: Annotated[Path, typer.Option(help="The PNG to write; -1, -2 ... for more images.")] = Path(
        "out.png"
    ),
    negative_prompt: str = "",
    seed: Annotated[int | None, typer.Option(help="Default: a random one, which is told.")] = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    num_images: int = 1,
    release: Annotated[int | None, typer.Option(help="Default: the live release.")] = None,
) -> None:
    """Ask the served model for images over gRPC; each PNG carries its provenance."""
    from adire_assets.serving import client

    project = Project.find()
    _, slot = load_fleet(project).slot
    answer = client.generate(
        f"{slot.host}:{slot.grpc_port}",
        model or _only_model(project),
        prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        num_images=num_images,
        release=release,
    )
    for index, image in enumerate(answer.images):
        path = out if num_images == 1 else out.with_stem(f"{out.stem}-{index + 1}")
        client.save_png(image, path, answer.provenance, index)
        # Image i of a request is drawn from the noise of seed + i.
        drawn_from = answer.provenance["request"]["seed"] + index
        say(f"{path}: release {answer.release}, seed {drawn_from}")


@app.command()
def status() -> None:
    """What is live and why, what is stale, and how the processes are."""
    from adire_assets import operations

    for line in operations.status(Project.find()):
        say(line)


@app.command()
def trace(
    image: Annotated[Path, typer.Argument(help="A PNG that `adire generate` wrote.")],
) -> None:
    """From an image to its release, commit, data, hyperparameters, MLflow run and scores."""
    from adire_assets import operations

    for line in operations.trace(Project.find(), image):
        say(line)


@app.command()
def rollback(
    model: Model,
    reason: Reason,
    to: Annotated[int | None, typer.Option(help="Default: the release before.")] = None,
) -> None:
    """Go back to an earlier release and quarantine the one that is left."""
    from adire_assets import pipeline

    record = pipeline.rollback(Project.find(), model, to, reason, say)
    say(f"{model}: release {record.live} is live")


@app.command("lift-quarantine")
def lift_quarantine(model: Model, release: int, reason: Reason) -> None:
    """Let a release that was rolled back be deployed again."""
    from adire_assets.serving import deployment

    deployment.lift_quarantine(Project.find(), model, release, reason)
    say(f"{model}: release {release} may be deployed again")


@app.command()
def gc(
    keep: Annotated[int, typer.Option(help="Latest artefacts of each kind to keep.")] = 3,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Delete artefacts that no live, candidate or recent release needs; manifests stay."""
    from adire_assets import operations

    for line in operations.collect_garbage(Project.find(), keep, dry_run):
        say(line)


@app.command()
def up(
    only: Annotated[
        Literal["all", "triton"], typer.Option(help="triton: without the Dagster UI.")
    ] = "all",
) -> None:
    """Start Triton, the Dagster UI and the sensors' daemon, supervised, in the background."""
    from adire_assets.serving import fleet

    project = Project.find()
    fleet.up(project, load_fleet(project), only=only, progress=say)


@app.command()
def down() -> None:
    """Stop what `up` started."""
    from adire_assets.serving import fleet

    project = Project.find()
    fleet.down(project, load_fleet(project))


@app.command()
def demo() -> None:
    """Run the whole line on the embedded defaults, and ask the live model for a picture."""
    from adire_assets import operations
    from adire_assets.defs.run import materialize as bring_live

    operations.demo(Project.find(), bring_live, say)


@base_model_app.command("train")
def base_model_train(
    output: Annotated[Path, typer.Option(help="Where the pipeline and the judge go.")] = Path(
        "base_models/tiny"
    ),
    work: Annotated[
        Path, typer.Option(help="Checkpoints; a killed training goes on from them.")
    ] = (Path(".adire/base-model")),
    seed: int = 0,
) -> None:
    """Train the embedded base model and its judge from scratch (3.4 CPU hours)."""
    from adire_assets.diffusion.tiny_base.train import train

    train(output=output, work=work, seed=seed)


@base_model_app.command("corpus")
def base_model_corpus(
    sheet: Annotated[Path, typer.Option(help="The PNG to write.")],
    seed: int = 0,
) -> None:
    """Show what the base model learns from: a sheet of drawn patterns, and their captions."""
    from adire_assets.diffusion.tiny_base.corpus import save_sheet

    for caption in save_sheet(sheet, seed):
        say(caption)


@app.command("sample-data")
def sample_data(
    folder: Annotated[Path, typer.Argument(help="An empty or new folder.")],
    count: int = 108,
    seed: int = 0,
    resolution: int = 128,
) -> None:
    """Draw sample images of adire, with their metadata.csv."""
    from adire_assets.data.sample_images import draw_sample_data

    draw_sample_data(folder, count=count, seed=seed, resolution=resolution)


def say(message: str, **numbers: float) -> None:
    print(message, flush=True)


def _only_model(project: Project) -> str:
    enabled = [name for name in model_names(project) if load_model(project, name).enabled]
    if len(enabled) != 1:
        raise UserError(f"say which model with --model; enabled: {', '.join(enabled) or 'none'}")
    return enabled[0]


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
