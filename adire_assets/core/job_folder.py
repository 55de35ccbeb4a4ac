"""The folder that carries a job to its worker, and the outcome back.

    job.json        {"function": "package.module:name", "arguments": {...}, "threads": n,
                     "recorder": {"function": ..., "run_id": ...} or null}
    result.json     what the function returned
    facts.json      beside it, `lineage.Facts` of the machine that computed, without versions
    error.txt       instead of both, the sentence with which it refused

A path among the arguments is {"place": "home" or "project", "path": the rest}, so a job can run on
every machine that has both.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adire_assets.core import lineage
from adire_assets.core.errors import UserError
from adire_assets.core.files import read_json, write_json

ERROR = "error.txt"
FACTS = "facts.json"
# Where the sources that were recorded with an artifact may have the worker, the newest first.
WORKERS = ("adire_assets.core.worker", "adire_assets.worker")


def command(
    folder: Path, *, launcher: tuple[str, ...] = (), sources: Path | None = None
) -> list[str]:
    """The command line that carries out the job in `folder`, behind an optional launcher.

    `sources`: where the worker finds the code, when that is not here.
    """

    def has(worker: str) -> bool:
        return not sources or (sources / worker.replace(".", "/")).with_suffix(".py").is_file()

    start = ["-m", next(filter(has, WORKERS), WORKERS[0])]
    guard = [*start, "--exec", *launcher] if launcher else []
    return [sys.executable, *guard, *start, str(folder)]


def portable(value: Any, places: Mapping[str, Path]) -> Any:
    """A path in one of the named places as {"place": name, "path": rest}; any other value as it
    is. ValueError for a path that lies in none."""
    if not isinstance(value, Path):
        return value
    for name, folder in places.items():
        if value.is_relative_to(folder):
            return {"place": name, "path": value.relative_to(folder).as_posix()}
    raise ValueError(f"{value} lies in none of the places {', '.join(places)}")


def located(value: Any, places: Mapping[str, Path]) -> Any:
    """The path, in the `places` of here, that `portable` wrote; any other value as it is."""
    return places[value["place"]] / value["path"] if is_portable(value) else value


def is_portable(value: Any) -> bool:
    """Whether this value is a path that `portable` has written."""
    return isinstance(value, dict) and value.keys() == {"place", "path"}


def recorded_job(
    function: str,
    arguments: Mapping[str, Any],
    places: Mapping[str, Path],
    launcher: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A job as plain JSON for a manifest; `located` makes paths of its arguments elsewhere.

    ValueError for a path that lies in none of the named `places`.
    """
    return {
        "function": function,
        "arguments": {name: portable(value, places) for name, value in arguments.items()},
        "launcher": list(launcher[1:]),  # without the interpreter, which has another path elsewhere
        "threads": lineage.threads(),
    }


def write_job(
    folder: Path,
    function: str,
    arguments: Mapping[str, Any],
    threads: int,
    recorder: Mapping[str, str] | None = None,
    places: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write a job into the empty `folder`.

    Paths in the `places` home and project become relative to them; others, which only the user can
    have named, become strings.
    """

    def plain(value: Any) -> Any:
        named = isinstance(value, Path) and not any(map(value.is_relative_to, places.values()))
        return str(value) if named else portable(value, places)

    told = {name: plain(value) for name, value in arguments.items()}
    job = {"function": function, "arguments": told, "threads": threads, "recorder": recorder}
    # Sources that were recorded before there was a `recorder` read "mlflow_run_id" in its place.
    write_json(folder / "job.json", {**job, "mlflow_run_id": None})


def result_of(folder: Path) -> dict[str, Any]:
    """What the job in `folder` returned, once it has ended.

    UserError with the job's own sentence when it refused. UserError too on a machine other than the
    first of a training on several machines: the result is on the first one.
    """
    if (refusal := folder / ERROR).is_file():
        raise UserError(refusal.read_text(encoding="utf-8"))
    try:
        return read_json(folder / "result.json")
    except FileNotFoundError:
        raise UserError(
            "this machine has done its share; the result lies on the one with ADIRE_MACHINE_RANK=0"
        ) from None
