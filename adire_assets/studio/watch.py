"""The page of the watch: how what is served is doing, in words and small plots.

All pages share one look each few seconds, however many are open; without one, nobody looks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from nicegui import ui

from adire_assets.config.fleet import load_fleet
from adire_assets.core.project import Project
from adire_assets.monitoring.watch import Figures, History, look, sentences
from adire_assets.studio.frame import heading, lines, shared, watched

SECONDS = 5.0  # from one look to the next
INK = "#7a86c2"  # readable on light and on dark
GRID = {"splitNumber": 3, "splitLine": {"lineStyle": {"color": INK, "opacity": 0.3}}}
Series = Mapping[str, list[float | None]]


@dataclass(frozen=True)
class View:
    """What the page shows: the figures of the last minutes, and {title: its plot's series}."""

    seconds: float
    said: tuple[str, ...]
    plots: Mapping[str, Series]


def fill(project: Project, history: History) -> None:
    """The page; `history` is that of all pages."""
    watched(SECONDS, partial(shared, "watch", SECONDS / 2, partial(view, project, history)), _show)


def view(project: Project, history: History) -> View | None:
    """Look once more; None until there are two looks to compare."""
    fleet = load_fleet(project)
    history.add(look(project, fleet))
    if len(history.looks) < 2:
        return None
    found = history.whole(fleet)
    return View(found.seconds, tuple(sentences(found)), dict(_plots(history.points(fleet))))


def _plots(points: list[Figures]) -> Iterator[tuple[str, Series]]:
    def by_release(value: Callable[..., float | None]) -> Series:
        names = sorted({name for point in points for name in point.releases})
        return {
            f"{model} {number} on {target}": [
                value(point.releases[target, model, number])
                if (target, model, number) in point.releases
                else None
                for point in points
            ]
            for target, model, number in names
        }

    def by_slot(value: Callable[..., float | None]) -> Series:
        names = sorted({name for point in points for name in point.slots})
        return {
            f"{slot} of {target}": [
                value(point.slots[target, slot]) if (target, slot) in point.slots else None
                for point in points
            ]
            for target, slot in names
        }

    yield "Requests per second", by_release(lambda one: one.requests_per_second)
    yield "Median seconds to the answer", by_release(lambda one: one.median_seconds)
    yield "Waiting for the engine", by_slot(lambda one: one.waiting)
    yield "Share of the time in which the engine computes", by_slot(lambda one: one.busy)


def _show(found: View | None) -> None:
    if found is None:
        lines(["Counting; the first figures are there in a few seconds."])
        return
    heading(f"The last {found.seconds:.0f} seconds", 2)
    with ui.card().classes("w-full"):
        lines(found.said)
    with ui.element("div").classes("grid grid-cols-1 md:grid-cols-2 gap-4 w-full mt-4"):
        for title, series in found.plots.items():
            with ui.card().classes("w-full"):
                heading(title, 2)
                _plot(title, series)


def _plot(title: str, series: Series) -> None:
    told = [text for name, values in series.items() if (text := _told(name, values))]
    if not told:
        lines(["Nothing yet."])
        return
    chart = ui.echart(
        {
            "animation": False,
            "grid": {"left": 48, "right": 12, "top": 12, "bottom": 12},
            "xAxis": {"type": "category", "show": False},
            "yAxis": {"type": "value", "min": 0, "axisLabel": {"color": INK}, **GRID},
            "series": [
                {"name": name, "type": "line", "data": values, "showSymbol": len(values) < 4}
                for name, values in series.items()
            ],
        }
    )
    chart.classes("w-full h-32").props('role="img"')
    chart.props["aria-label"] = f"{title}, over time"
    lines(told)


def _told(name: str, values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{name}: {known[-1]:.3g}, between {min(known):.3g} and {max(known):.3g}"
