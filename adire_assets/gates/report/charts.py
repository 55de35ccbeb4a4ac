"""Small charts as inline SVG, drawn for a page that may be 390 or 1280 pixels wide.

Horizontal places are percentages and vertical ones pixels, without a viewBox: a chart fills its
place while text and dots keep their size. Colours are classes of the page's style. Each chart says
in words what it shows (aria-label); each function gives safe markup.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from adire_assets.gates.report.document import BatchSpeed, Distribution, GateView

BAR_HEIGHT, STRIP_HEIGHT, AXIS_HEIGHT, CURVE_HEIGHT = 30, 44, 22, 200  # pixels
EDGE = 3.0  # percent that stay free at both ends
GOLDEN = 0.6180339887  # spreads dots evenly without a pattern
Scale = Callable[[float], float]


def gate_bar(gate: "GateView") -> Markup:
    """The value against its bound: shaded is what passes, the thick line is the margin.

    Against the champion: the line goes from the lower bound to the difference, dashed is zero.
    """
    known = [v for v in (gate.value, gate.threshold, gate.difference) if v is not None]
    if gate.value is None or gate.threshold is None:
        return Markup('<span class="nothing">{}</span>').format(
            "no value" if gate.value is None else "no bound"
        )
    x = _scale([0.0, *known])
    bound, value, middle = x(gate.threshold), x(gate.value), BAR_HEIGHT / 2
    parts = [_line(0, middle, 100, middle, "track")]
    if gate.comparison != "==":
        low, high = (bound, 100.0) if gate.comparison.startswith(">") else (0.0, bound)
        parts += [_element("rect", "allowed", x=_at(low), y=5, width=_at(high - low), height=20)]
    parts += [_line(bound, middle, value, middle, f"margin {_tone(gate)}")]
    if gate.against_champion:
        parts += [_line(x(0.0), 3, x(0.0), BAR_HEIGHT - 3, "zero")]
        if gate.difference is not None:
            end = x(gate.difference)
            parts += [_line(value, middle, end, middle, "whisker")]
            parts += [_line(value, middle - 5, value, middle + 5, "whisker")]
            parts += [_dot(end, middle, 4.5, f"value {_tone(gate)}")]
    else:
        parts += [_dot(value, middle, 4.5, f"value {_tone(gate)}")]
    parts += [_line(bound, 2, bound, BAR_HEIGHT - 2, "bound")]
    told = f"{gate.name}: value {gate.value:.4g}, bound {gate.threshold:.4g}, {gate.outcome}"
    return _svg(parts, BAR_HEIGHT, told, "bar")


def strips(distribution: "Distribution", title: str) -> list[tuple[str, Markup, float]]:
    """(variant, its values as a strip of dots over quartiles and median, the median) in order."""
    x = _scale(_all(distribution))
    rows: list[tuple[str, Markup, float]] = []
    for variant, values in distribution.values.items():
        if not values:
            continue
        median = statistics.median(values)
        parts = [_line(x(at), 0, x(at), STRIP_HEIGHT, "mark") for at in distribution.marks.values()]
        if len(values) > 1:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
            width = max(0.4, x(high) - x(low))
            parts += [
                _element(
                    "rect",
                    f"quartiles {variant}",
                    x=_at(x(low)),
                    y=8,
                    width=_at(width),
                    height=STRIP_HEIGHT - 16,
                )
            ]
        for place, value in enumerate(values):
            jitter = (place * GOLDEN % 1 - 0.5) * (STRIP_HEIGHT - 22)
            label = distribution.labels[place] if place < len(distribution.labels) else ""
            label = f"{label}: {value:.4g}" if label else f"{value:.4g}"
            parts += [_dot(x(value), STRIP_HEIGHT / 2 + jitter, 3, f"dot {variant}", label)]
        parts += [_line(x(median), 4, x(median), STRIP_HEIGHT - 4, f"median {variant}")]
        told = (
            f"{title}, {variant}: {len(values)} values from {min(values):.4g} to "
            f"{max(values):.4g}, median {median:.4g}"
        )
        rows.append((variant, _svg(parts, STRIP_HEIGHT, told, "strip"), median))
    return rows


def axis(distribution: "Distribution") -> Markup:
    """The numbers below the strips of a distribution."""
    values = _all(distribution)
    x = _scale(values)
    parts: list[Markup] = []
    for tick in _ticks(min(values), max(values), 4):
        parts += [_line(x(tick), 0, x(tick), 5, "tick")]
        parts += [_text(x(tick), 18, f"{tick:g}", "middle")]
    return _svg(parts, AXIS_HEIGHT, "", "axis")


def curve(speed: Mapping[str, Sequence["BatchSpeed"]], of: str) -> Markup:
    """Answers per second (`of` is that) or seconds per answer (`of` "seconds") by batch size.

    Seconds are two lines, p50 and dashed p95.
    """
    names = ["seconds_p50", "seconds_p95"] if of == "seconds" else [of]
    sizes = sorted({point.batch_size for points in speed.values() for point in points})
    most = max(getattr(p, name) for points in speed.values() for p in points for name in names)
    ticks = _ticks(0, most, 3)
    top = max(most, ticks[-1] + (ticks[-1] - ticks[-2])) if len(ticks) > 1 else most
    ticks = _ticks(0, top, 4)
    floor, ceiling = CURVE_HEIGHT - 24, 20

    def x(size: int) -> float:
        return 12 + 82 * sizes.index(size) / max(1, len(sizes) - 1)

    def y(value: float) -> float:
        return floor - (floor - ceiling) * value / (top or 1)

    parts: list[Markup] = []
    for tick in ticks:
        parts += [_line(0, y(tick), 100, y(tick), "grid")]
        parts += [_text(0, y(tick) - 4, f"{tick:g}", "start")]
    parts += [_text(x(size), CURVE_HEIGHT - 6, str(size), "middle") for size in sizes]
    for variant, points in speed.items():
        ordered = sorted(points, key=lambda point: point.batch_size)
        for name in names:
            kind = f"{variant} {'p95' if name == 'seconds_p95' else 'p50'}"
            spots = [(x(point.batch_size), y(getattr(point, name))) for point in ordered]
            for (x1, y1), (x2, y2) in pairwise(spots):
                parts += [_line(x1, y1, x2, y2, f"curve {kind}")]
            for (at, height), point in zip(spots, ordered, strict=True):
                label = f"batch size {point.batch_size}: {getattr(point, name):.4g}"
                mark = _square if variant == "champion" else _dot
                parts += [mark(at, height, 4, f"point {kind}", label)]
    told = f"{of.replace('_', ' ')} by batch size, {', '.join(map(str, sizes))}"
    return _svg(parts, CURVE_HEIGHT, told, "curves")


def _all(distribution: "Distribution") -> list[float]:
    values = [value for values in distribution.values.values() for value in values]
    values += distribution.marks.values()
    # Zero is worth its place when it is near.
    return [*values, 0.0] if 0 < min(values) < 0.2 * max(values) else values


def _scale(values: Iterable[float]) -> Scale:
    """From values to percent; equal values stand in the middle."""
    known = list(values)
    low, span = min(known), max(known) - min(known)
    if span == 0:
        return lambda value: 50.0
    return lambda value: EDGE + (100 - 2 * EDGE) * (value - low) / span


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two bounds."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _tone(gate: "GateView") -> str:
    return {"passed": "good", "failed": "bad"}.get(gate.outcome, "quiet")


def _svg(parts: Iterable[Markup], height: int, told: str, kind: str) -> Markup:
    said = Markup('role="img" aria-label="{}"').format(told) if told else 'aria-hidden="true"'
    return Markup('<svg class="{}" width="100%" height="{}" {}>{}</svg>').format(
        kind, height, Markup(said), Markup("").join(parts)
    )


def _element(tag: str, kind: str, **attributes: str | float) -> Markup:
    told = Markup(" ").join(Markup('{}="{}"').format(k, v) for k, v in attributes.items())
    return Markup('<{0} class="{1}" {2}></{0}>').format(tag, kind, told)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return _element("line", kind, x1=_at(x1), y1=round(y1, 1), x2=_at(x2), y2=round(y2, 1))


def _dot(x: float, y: float, radius: float, kind: str, label: str = "") -> Markup:
    inside = Markup("<title>{}</title>").format(label) if label else ""
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}">{}</circle>').format(
        kind, _at(x), round(y, 1), radius, inside
    )


def _square(x: float, y: float, radius: float, kind: str, label: str) -> Markup:
    """As `_dot`; another shape where colour alone would tell two lines apart."""
    return Markup(
        '<svg x="{}" y="{}" overflow="visible"><rect class="{}" x="-{}" y="-{}" width="{}" '
        'height="{}"><title>{}</title></rect></svg>'
    ).format(_at(x), round(y, 1), kind, radius, radius, 2 * radius, 2 * radius, label)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        _at(x), round(y, 1), anchor, escape(text)
    )


def _at(percent: float) -> str:
    return f"{percent:.2f}%"
