"""What a user names on the command line, looked at before any work is done.

Types for the parameters of `adire`: each checks its value when the command line is read, and raises
UserError with one sentence. A path that is to be written is tried with a file without a name, so
that a folder which takes no files (read-only, full, not one's own) is refused before the work.
"""

import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from adire_assets.config.model import NAME, no_model
from adire_assets.core.errors import UserError
from adire_assets.core.file_names import suffix_of
from adire_assets.core.project import Project

LARGEST_NUMBER = 2**31 - 1  # of a release and of a seed
RELEASE = re.compile(r"(.+)@([0-9]{1,10})")


def require_text(words: list[str]) -> None:
    """UserError for a word that is no text: bytes of a shell that are not UTF-8, or a NUL."""
    for word in words:
        if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(f"{word!r} is not UTF-8 text; type it anew")


def known_model(name: str) -> str:
    """A model with a YAML, or one that was deployed here before its YAML went."""
    if not name:
        return name
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"model name {name!r}: use lower-case letters, digits and _, a letter first"
        )
    project = Project.find()
    made = project.records.list(f"releases/{name}")
    if not project.model_file(name).is_file() and not made:
        raise UserError(no_model(project, name))
    return name


def known_release(name: str) -> str:
    """`model@N`, or the model alone."""
    return one_release(name) if "@" in name else known_model(name or "@")


def one_release(name: str) -> str:
    """`model@N`."""
    found = RELEASE.fullmatch(name)
    if found is None or not 1 <= int(found[2]) <= LARGEST_NUMBER:
        raise UserError(f"{name!r}: a release is named like indigo@3")
    known_model(found[1])
    return name


def not_blank(text: str | None) -> str | None:
    if text is not None and not text.strip():
        raise UserError("a blank text says nothing: the reason, name or prompt is kept; give one")
    return text


def finite(number: float | None) -> float | None:
    if number is not None and not math.isfinite(number):
        raise UserError(f"{number} is not a finite number")
    return number


def _path_check(refused: str) -> Callable[[Callable[[Path], None]], Callable[[Any], Any]]:
    """A check of a path, of each of several, or of none; an OSError says that it is `refused`."""

    def decorate(check: Callable[[Path], None]) -> Callable[[Any], Any]:
        def look(given: Any) -> Any:
            for path in given if isinstance(given, list) else [given] if given else []:
                try:
                    check(path)
                except OSError as error:
                    raise UserError(f"{path} {refused}: {error.strerror}") from None
            return given

        return look

    return decorate


@_path_check("cannot be read")
def file_to_read(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    path.open("rb").close()


@_path_check("cannot be written")
def file_to_write(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file; name a file to write")
    _try_to_write(path)


def file_to_write_as(*endings: str) -> Callable[[Any], Any]:
    """A check for a file whose content is of one kind, which programs tell by its name."""

    @_path_check("cannot be written")
    def look(path: Path) -> None:
        file_to_write(path)
        if suffix_of(path.name) not in endings:
            raise UserError(
                f"{path}: name a file that ends in {endings[0]}, which is what is written"
            )

    return look


yaml_to_write, html_to_write = file_to_write_as(".yaml"), file_to_write_as(".html", ".htm")


@_path_check("cannot be written to")
def folder_to_write(path: Path) -> None:
    """A folder that there is, or that can be made."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; name a folder")
    _try_to_write(path / "file")


@_path_check("cannot be made")
def folder_to_make(path: Path) -> None:
    """A folder that there is not yet."""
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; name a new folder")
    folder_to_write(path)


def _try_to_write(path: Path) -> None:
    """OSError or UserError when no file can be written into what is, or will be, its folder."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, so nothing can be written to {path}")
    with tempfile.TemporaryFile(dir=folder):
        pass


Model = Annotated[
    str, typer.Argument(help="A model of configs/models, for example indigo.", callback=known_model)
]
Evaluation = Annotated[
    str,
    typer.Argument(
        help="indigo: its newest evaluation; indigo@3: that of release 3.", callback=known_release
    ),
]
Release = Annotated[
    str,
    typer.Argument(help="indigo: its live release; indigo@3: release 3.", callback=known_release),
]
OneRelease = Annotated[
    str, typer.Argument(help="A release, such as indigo@3.", callback=one_release)
]
Number = Annotated[int, typer.Argument(min=1, max=LARGEST_NUMBER, help="A release's number.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_NUMBER, help="Of the random numbers.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the record.", callback=not_blank)]
By = Annotated[
    str | None,
    typer.Option(help="Who decides; default: the rater, or this account.", callback=not_blank),
]
