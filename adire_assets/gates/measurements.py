"""How long an adapter takes to draw: every measurement is kept, and all of them decide together.

<home>/measurements/<model>/<key>.json lists the measurements of one adapter drawing in one way, in
the order in which they were taken, and only grows: drawing an evaluation adds the first one,
`adire measure` and drawing again after `adire gc` add others. The key names what the time depends
on: drawing code, adapter, base, steps, guidance, libraries, device, threads. Prompts, seeds and
`latency_images` are not in it, so that changing them does not begin anew.

`together` is what gates read. A time is the median of the measurements' values: one that a busy
machine spoilt is outvoted by others and never thrown away, and trying again does not help an
adapter that is too slow. Where a single measurement passes with probability p < 0.5, the share of
those that pass ever reaches one half, after a first refusal, with probability (p / (1 - p))^2
(gambler's ruin, Feller 1968, XIV.2), however often it is measured; asking for one passing
measurement would reach 1. The peak of memory is the greatest of all.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.core.store import KEY_DIGITS, Artifact, Store, lock, read_json, write_json
from adire_assets.serving import record

TIMINGS = "timings.json"
SETTINGS = ("num_inference_steps", "guidance_scale")  # of a drawing, what its time depends on
GREATEST = ("peak_memory_bytes",)
POINTS = ("images_per_second", "seconds_per_image_p50", "seconds_per_image_p95")
DIGITS = 4
Timings = Mapping[str, Any]


def add(project: Project, model: str, drawing: Mapping[str, Any], timings: Timings) -> None:
    """Keep a measurement, the timings.json of a drawing with the recipe `drawing`."""
    path = _path(project, model, drawing)
    cpu = lineage.hardware()["cpu"]
    with lock(project, f"measurements-{path.stem}"):
        known = read_json(path) if path.is_file() else []
        write_json(path, [*known, {"at": record.now(), "cpu": cpu, **timings}])


def kept(project: Project, images: Artifact) -> bool:
    """Whether the measurements of `images` are in a file of their own."""
    return _path(project, images.model, images.manifest["recipe"]).is_file()


def of_images(project: Project, images: Artifact) -> list[Timings]:
    """The measurements of the adapter that drew `images`, the first one first."""
    path = _path(project, images.model, images.manifest["recipe"])
    if path.is_file():
        return list(read_json(path))
    own = images.path / TIMINGS  # drawn before measurements were kept
    timings = read_json(own) if own.is_file() else {}
    return [timings] if timings else []


def timings_of(project: Project, evaluation: Artifact) -> dict[str, Any]:
    """An evaluation's timings.json, with all measurements of its adapter until now."""
    own = evaluation.json(TIMINGS)
    reference = evaluation.manifest.get("adapter_images")
    measured = of_images(project, Store(project).recall(reference)) if reference else []
    return {**own, **together(measured)}


def together(measurements: Sequence[Timings]) -> dict[str, Any]:
    """One timings.json for all of them; that of the only one as it is, {} for none.

    `measurements` says how many there are, `seconds_per_image_means` their means in order.
    """
    if not measurements:
        return {}
    latest = measurements[-1]
    found = {name: _value(name, measurements) for name in latest if name not in ("at", "cpu")}
    means = [one["seconds_per_image_mean"] for one in measurements]
    return {**found, "measurements": len(measurements), "seconds_per_image_means": means}


def _value(name: str, measurements: Sequence[Timings]) -> Any:
    values = [one[name] for one in measurements if name in one]
    if name == "seconds_per_image":
        return [seconds for value in values for seconds in value]
    if name == "by_batch_size":
        return [_point(point["batch_size"], values) for point in values[-1]]
    if name in GREATEST:
        return max(values)
    if isinstance(values[-1], float):
        return round(statistics.median(values), DIGITS)
    return values[-1]


def _point(size: int, curves: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    same = [point for curve in curves for point in curve if point["batch_size"] == size]
    medians = {n: round(statistics.median(point[n] for point in same), DIGITS) for n in POINTS}
    return {"batch_size": size, **medians}


def _path(project: Project, model: str, drawing: Mapping[str, Any]) -> Path:
    depends_on = {
        **{name: drawing[name] for name in ("code", "inputs", "environment")},
        "config": {name: drawing["config"][name] for name in SETTINGS},
    }
    name = f"{lineage.digest(depends_on)[:KEY_DIGITS]}.json"
    return project.home / "measurements" / model / name
