"""The commands of `embedded`, beside those of every package.

`adire base-model` makes the embedded base, its golden images and a sheet of what it learns from;
`adire sample-data` draws sample images. `adire letters` makes the embedded language model and the
letters that it is tuned on.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from adire_assets.cli.arguments import Seed, file_to_write, folder_to_write
from adire_assets.core.project import Project

embedded_app = typer.Typer()
base_model_app = typer.Typer(no_args_is_help=True, help="The embedded tiny Stable Diffusion.")
embedded_app.add_typer(base_model_app, name="base-model")
letters_app = typer.Typer(no_args_is_help=True, help="The embedded language model and its letters.")
embedded_app.add_typer(letters_app, name="letters")

Work = Annotated[
    Path | None,
    typer.Option(help="Its checkpoints; default: in the home.", callback=folder_to_write),
]
NewFolder = Annotated[
    Path, typer.Argument(help="An empty or new folder.", callback=folder_to_write)
]


@base_model_app.command("train")
def base_model_train(
    output: Annotated[
        Path, typer.Option(help="Where the pipeline and the judge go.", callback=folder_to_write)
    ] = Path("base_models/tiny"),
    work: Work = None,
    seed: Seed = 0,
) -> None:
    """Train the embedded base model and its judge from scratch (3.4 CPU hours)."""
    from adire_assets.embedded.base.train import train

    train(output=output, work=work or Project.find().home / "base-model", seed=seed)


@base_model_app.command("golden")
def base_model_golden(
    folder: Annotated[
        Path, typer.Option(help="The golden set to write anew.", callback=folder_to_write)
    ] = Path("base_models/tiny/golden"),
) -> str:
    """Draw the embedded base's golden images, after a change that is meant to change them."""
    from adire_assets.embedded.base.golden import write_golden

    write_golden(Path("base_models/tiny/pipeline"), folder)
    return f"{folder}: written; look at the images before you commit them"


@base_model_app.command("corpus")
def base_model_corpus(
    sheet: Annotated[Path, typer.Option(help="The PNG to write.", callback=file_to_write)],
    seed: Seed = 0,
) -> Iterable[str]:
    """Show what the base model learns from: a sheet of drawn patterns, and their captions."""
    from adire_assets.embedded.base.corpus import save_sheet

    return save_sheet(sheet, seed)


@embedded_app.command("sample-data")
def sample_data(
    folder: NewFolder,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Of images.")] = 108,
    seed: Seed = 0,
    resolution: Annotated[int, typer.Option(min=32, max=4096, help="Pixels a side.")] = 128,
) -> None:
    """Draw sample images of adire, with their metadata.csv."""
    from adire_assets.embedded.cloth.sample_images import draw_sample_data

    draw_sample_data(folder, count=count, seed=seed, resolution=resolution)


@letters_app.command("train")
def letters_train(
    output: Annotated[
        Path, typer.Option(help="Where the model goes.", callback=folder_to_write)
    ] = Path("base_models/letters"),
    work: Work = None,
    seed: Seed = 0,
) -> None:
    """Train the embedded language model from scratch (an hour of one core)."""
    from adire_assets.embedded.letters.train import train

    train(output=output, work=work or Project.find().home / "letters", seed=seed)


@letters_app.command("write")
def letters_write(
    folder: NewFolder,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Of letters.")] = 2_400,
    seed: Seed = 0,
) -> None:
    """Write letters of an indigo workshop, with the facts that they must repeat."""
    from adire_assets.embedded.letters.letters import write_letters

    write_letters(folder, count=count, seed=seed)
