"""How long an adapter takes to answer: every measurement is kept, and all decide together.

<home>/measurements/<model>/<key>.json lists the measurements of one adapter answering in one way,
in the order in which they were taken, and only grows: making an evaluation's answers adds the first
one, `adire measure` and making them again after `adire gc` add others. The key names what the time
depends on: code, adapter, base, libraries, device, threads, and the settings that the family names
(`drawing.TIMED_BY`). Prompts and seeds are not in it, so that changing them does not begin anew.

`together` is what gates read. A time is the median of the measurements' values: one that a busy
machine spoilt is outvoted by others and never thrown away, and trying again does not help an
adapter that is too slow. Where a single measurement passes with probability p < 0.5, the share of
those that pass ever reaches one half, after a first refusal, with probability (p / (1 - p))^2
(gambler's ruin, Feller 1968, XIV.2), however often it is measured; asking for one passing
measurement would reach 1. The peak of memory is the greatest of all.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from adire_assets.config.model import family_of
from adire_assets.core import lineage
from adire_assets.core.project import Project
from adire_assets.core.store import KEY_DIGITS, Artifact, Store, read_json
from adire_assets.serving import record

TIMINGS = "timings.json"
DIGITS = 6  # that count
Timings = Mapping[str, Any]


def add(project: Project, model: str, drawing: Mapping[str, Any], timings: Timings) -> None:
    """Keep a measurement, the timings.json of a drawing with the recipe `drawing`."""
    taken = {"at": record.now(), "cpu": project.placement.facts().hardware["cpu"], **timings}
    name = _name(project, model, drawing)
    project.records.change(name, lambda known: [*(known or []), taken])


def kept(project: Project, images: Artifact) -> bool:
    """Whether `images` has a record of measurements."""
    return _recorded(project, images) is not None


def of_images(project: Project, images: Artifact) -> list[Timings]:
    """The measurements of the adapter that drew `images`, the first one first."""
    if (known := _recorded(project, images)) is not None:
        return known
    own = images.path / TIMINGS  # drawn before measurements were kept
    timings = read_json(own) if own.is_file() else {}
    return [timings] if timings else []


def _recorded(project: Project, images: Artifact) -> list[Timings] | None:
    name = _name(project, images.model, images.manifest["recipe"])
    return project.records.read(name).value


def timings_of(project: Project, evaluation: Artifact) -> dict[str, Any]:
    """An evaluation's timings.json, with all measurements of its adapter until now."""
    own = evaluation.json(TIMINGS)
    reference = evaluation.manifest.get("adapter_images")
    measured = of_images(project, Store(project).recall(reference)) if reference else []
    return {**own, **together(measured)}


def together(measurements: Sequence[Timings]) -> dict[str, Any]:
    """One timings.json for all measurements: a single one unchanged, {} for none.

    `measurements` says how many there are, and for each `..._mean`, `..._means` lists all of them.
    """
    if not measurements:
        return {}
    names = [name for name in measurements[-1] if name not in ("at", "cpu")]
    by_name = {name: [one[name] for one in measurements if name in one] for name in names}
    found = {name: _together(name, values) for name, values in by_name.items()}
    means = {f"{name}s": found for name, found in by_name.items() if name.endswith("_mean")}
    return {**found, "measurements": len(measurements), **means}


def _together(name: str, values: Sequence[Any]) -> Any:
    match values[-1]:
        case [{"batch_size": _}, *_]:  # a curve
            points = [point for curve in values for point in curve]
            return [_point(one, points) for one in values[-1]]
        case list():
            return [each for value in values for each in value]
        case float():
            return float(f"{statistics.median(values):.{DIGITS}g}")
        case int() if name.endswith("_bytes"):
            return max(values)
    return values[-1]


def _point(latest: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    same = [point for point in points if point["batch_size"] == latest["batch_size"]]
    return {name: _together(name, [one[name] for one in same if name in one]) for name in latest}


def _name(project: Project, model: str, drawing: Mapping[str, Any]) -> str:
    timed_by = family_of(project, model).drawing.functions.TIMED_BY
    asked = drawing["config"]
    depends_on = {
        **{name: drawing[name] for name in ("code", "inputs", "environment")},
        "config": {name: asked[name] for name in timed_by if name in asked},
    }
    return f"measurements/{model}/{lineage.digest(depends_on)[:KEY_DIGITS]}"
