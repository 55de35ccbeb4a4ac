"""Where things lie in the charts of templates/charts.html.j2."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

CURVE_HEIGHT = 200  # pixels
EDGE = 3.0  # percent that stay free at both ends


def scale(values: Iterable[float]) -> Callable[[float], float]:
    """From values to percent; equal values stand in the middle."""
    known = list(values)
    low, span = min(known), max(known) - min(known)
    return lambda value: EDGE + (100 - 2 * EDGE) * (value - low) / span if span else 50.0


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two bounds."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def quartiles(values: tuple[float, ...]) -> list[float]:
    """The first quartile, the median and the third."""
    return statistics.quantiles(values * 2 if len(values) == 1 else values, method="inclusive")


def plot_of(speed: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, Any]:
    """The places of curves by batch size: `sizes`, `ticks`, `height`; `x` and `y` of a value."""
    points = [point for of_variant in speed.values() for point in of_variant]
    sizes = sorted({point.batch_size for point in points})
    most = max(getattr(point, name) for point in points for name in names)
    found = ticks(0, most, 3)
    top = max(most, 2 * found[-1] - found[-2]) if len(found) > 1 else most
    floor, ceiling = CURVE_HEIGHT - 24, 20
    return {
        "sizes": sizes,
        "ticks": ticks(0, top, 4),
        "height": CURVE_HEIGHT,
        "x": lambda size: 12 + 82 * sizes.index(size) / max(1, len(sizes) - 1),
        "y": lambda value: round(floor - (floor - ceiling) * value / (top or 1), 1),
    }
