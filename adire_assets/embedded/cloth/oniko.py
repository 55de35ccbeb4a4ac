"""Oniko: cloth tied with raffia into circles, from pebbles and seeds to large moons.

What makes it oniko is the tying: pleats run from the knot outwards, the thread leaves rings that
break up at every pleat, and dye creeps in along the folds. Contract: `draw_oniko` gives a resist
mask and the words for it; pure numpy, no state but the generator.
"""

from dataclasses import dataclass, field
from math import hypot

import numpy as np
from numpy.typing import NDArray

from adire_assets.embedded.cloth.drawing import TAU, Field, smooth_noise

LAYOUTS = {
    "rows": 0.18,
    "shifted rows": 0.1,
    "scattered": 0.1,
    "rings": 0.07,
    "rays": 0.06,
    "ringed": 0.09,
    "pairs": 0.07,
    "corners": 0.08,
    "moons": 0.08,
    "dots in rows": 0.06,
    "dots in a spiral": 0.06,
    "dots in rings": 0.05,
}
"""How often the circles are laid out this way."""

REACH = 1.4  # radii from the knot beyond which a tied circle leaves no trace
MOST_PLEATS = 24


@dataclass
class Ties:
    """Where the cloth is tied: (x, y, radius) in parts of the image."""

    circles: list[tuple[float, float, float]] = field(default_factory=list)
    dots: list[tuple[float, float, float]] = field(default_factory=list)

    def free(self, x: float, y: float, radius: float, room: float = 0.02) -> bool:
        """Whether a circle here touches no other."""
        return all(hypot(x - u, y - v) > radius + r + room for u, v, r in self.circles)


def draw_oniko(x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, str]:
    """Resist of tied circles, [H, W], and words for it; `x`, `y` [H, W] in parts of the image."""
    layout = str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
    ties, words = _lay_out(layout, rng)
    resolution = x.shape[0]
    creep = 0.0035 * smooth_noise(rng, resolution, 26)  # dye in the threads of the cloth
    resist = _tied_circles(x + creep, y - creep, ties.circles, rng, rays=layout == "rays")
    for place_x, place_y, radius in ties.dots:
        _tie_dot(resist, x + creep, y - creep, place_x, place_y, radius, rng)
    mottled = 1.08 + 0.1 * smooth_noise(rng, resolution, 42)
    return resist * mottled, words


def _lay_out(layout: str, rng: np.random.Generator) -> tuple[Ties, str]:
    if layout in ("rows", "shifted rows"):
        return _rows(layout == "shifted rows", rng)
    if layout.startswith("dots"):
        return _dots(layout, rng)
    ties = Ties()
    circles = ties.circles
    if layout == "scattered":
        for attempt in range(150):
            radius = rng.uniform(0.14, 0.2) if attempt < 30 else rng.uniform(0.075, 0.13)
            place_x, place_y = (float(value) for value in rng.uniform(0.0, 1.0, 2))
            if ties.free(place_x, place_y, radius):
                circles.append((place_x, place_y, radius))
        return ties, "tied circles scattered"
    if layout in ("rings", "rays"):
        circles.append((*rng.normal(0.5, 0.02, 2), rng.uniform(0.38, 0.5)))
        return ties, f"one large tied circle with {layout}"
    if layout == "ringed":
        circles.append((*rng.normal(0.5, 0.01, 2), rng.uniform(0.18, 0.23)))
        number, turn = int(rng.integers(7, 11)), rng.uniform(0, TAU)
        for place in range(number):
            angle = turn + TAU * (place + rng.normal(0, 0.05)) / number
            circles.append((0.5 + 0.38 * np.cos(angle), 0.5 + 0.38 * np.sin(angle), 0.1))
        return ties, "one tied circle inside a ring of small circles"
    if layout == "pairs":
        turn = rng.choice([-0.24, 0.24])
        large, small = rng.uniform(0.2, 0.25, 2), rng.uniform(0.09, 0.13, 2)
        circles += [(0.5 - turn, 0.26, large[0]), (0.5 + turn, 0.74, large[1])]
        circles += [(0.5 + turn, 0.22, small[0]), (0.5 - turn, 0.78, small[1])]
        return ties, "two large tied circles and two small circles"
    if layout == "corners":
        circles.append((*rng.normal(0.5, 0.01, 2), rng.uniform(0.26, 0.31)))
        for corner_x in (0.13, 0.87):
            circles += [
                (corner_x, corner_y, rng.uniform(0.095, 0.125)) for corner_y in (0.13, 0.87)
            ]
        return ties, "one large tied circle and four small circles"
    # "Osupa ati eso", moons and fruits: large circles and seeds between them.
    for place_x in (0.25, 0.75):
        circles += [(place_x, place_y, rng.uniform(0.18, 0.215)) for place_y in (0.25, 0.75)]
    for step in np.arange(0.02, 1, 0.08):
        for place_x, place_y in ((0.5, step), (step, 0.5), (0.02, step), (step, 0.02)):
            place_x, place_y = place_x + rng.normal(0, 0.008), place_y + rng.normal(0, 0.008)
            if all(hypot(place_x - u, place_y - v) > 0.05 for u, v, _ in ties.dots):
                ties.dots.append((place_x, place_y, rng.uniform(0.024, 0.031)))
    return ties, "four large tied circles and many tiny dots"


def _rows(shifted: bool, rng: np.random.Generator) -> tuple[Ties, str]:
    across = int(rng.integers(2, 6))
    step = 1 / across
    ties = Ties()
    for row in range(across + 1):
        for column in range(-1, across + 1):
            shift = 0.5 * (row % 2) if shifted else 0.0
            place_x = (column + 0.5 + shift) * step + rng.normal(0, 0.03) * step
            place_y = (row + 0.5) * step + rng.normal(0, 0.03) * step
            ties.circles.append((place_x, place_y, step * rng.uniform(0.34, 0.42)))
    kind = {2: "large tied circles", 3: "tied circles"}.get(across, "small tied circles")
    return ties, f"{kind} in {'shifted ' if shifted else ''}rows"


def _dots(layout: str, rng: np.random.Generator) -> tuple[Ties, str]:
    ties = Ties()
    step = rng.uniform(0.075, 0.1)
    if layout == "dots in rows":
        turn = rng.choice([0.0, TAU / 8])
        number = int(0.75 / step)
        for row in range(-number, number + 1):
            for column in range(-number, number + 1):
                u, v = column * step, row * step
                place_x = 0.5 + np.cos(turn) * u - np.sin(turn) * v
                place_y = 0.5 + np.sin(turn) * u + np.cos(turn) * v
                ties.dots.append((place_x, place_y, 0.0))
        words = "many tiny tied dots in " + ("diagonal rows" if turn else "rows")
    elif layout == "dots in a spiral":
        pitch, angle, hand = step * 1.75, 0.0, rng.choice([-1, 1])
        while (radius := pitch * (0.35 + angle / TAU)) < 0.7:
            place_x = 0.5 + radius * np.cos(hand * angle)
            place_y = 0.5 + radius * np.sin(hand * angle)
            ties.dots.append((place_x, place_y, 0.0))
            angle += 0.78 * step / radius
        words = "many tiny tied dots in a spiral"
    else:
        ties.circles.append((0.5, 0.5, rng.uniform(0.12, 0.16)))
        for ring in range(5):
            radius = 0.2 + ring * step * 1.25
            number, turn = int(TAU * radius / (0.9 * step)), rng.uniform(0, TAU)
            for place in range(number):
                angle = turn + TAU * place / number
                place_x, place_y = 0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)
                ties.dots.append((place_x, place_y, 0.0))
        words = "one tied circle inside rings of many tiny dots"
    ties.dots = [
        (
            u + rng.normal(0, 0.05) * step,
            v + rng.normal(0, 0.05) * step,
            rng.uniform(0.31, 0.4) * step,
        )
        for u, v, _ in ties.dots
        if -0.04 < u < 1.04 and -0.04 < v < 1.04
    ]
    return ties, words


def _window(resolution: int, place_x: float, place_y: float, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the image that lie within `reach` of a place, a little more."""
    reach += 0.02
    bounds = [
        (max(int((place - reach) * resolution), 0), max(int((place + reach) * resolution) + 1, 0))
        for place in (place_y, place_x)
    ]
    return slice(*bounds[0]), slice(*bounds[1])


def _nearest(
    x: Field, y: Field, circles: list[tuple[float, float, float]]
) -> tuple[NDArray[np.intp], Field]:
    """Index of the circle that a pixel belongs to, and its distance in radii (REACH at most)."""
    radius = np.full_like(x, REACH)
    index = np.zeros(x.shape, np.intp)
    for place, (centre_x, centre_y, size) in enumerate(circles):
        part = _window(x.shape[0], centre_x, centre_y, REACH * size)
        distance = np.hypot(x[part] - centre_x, y[part] - centre_y) / size
        nearer = distance < radius[part]
        radius[part][nearer] = distance[nearer]
        index[part][nearer] = place
    return index, radius


def _tied_circles(
    x: Field,
    y: Field,
    circles: list[tuple[float, float, float]],
    rng: np.random.Generator,
    rays: bool,
) -> Field:
    """Resist of all tied circles; each pixel is pleated by the knot that it is nearest to.

    With `rays` the pleats show more than the rings do.
    """
    if not circles:
        return np.zeros_like(x)
    number = len(circles)
    index, radius = _nearest(x, y, circles)
    centre_x, centre_y, size = (
        np.array(values, np.float32) for values in zip(*circles, strict=True)
    )
    angle = np.arctan2(y - centre_y[index], x - centre_x[index])

    # A thread is pulled tight by hand: no ring is round, none is equally strong all around.
    phases = rng.uniform(0, TAU, (3, number)).astype(np.float32)
    wobble = sum(
        np.cos(harmonic * angle + phases[place][index]) / harmonic
        for place, harmonic in enumerate((2, 3, 5))
    )
    radius = radius * (1 + 0.045 * wobble)

    pleats = np.clip(np.round(rng.uniform(11, 16) * (size / 0.2) ** 0.45), 7, MOST_PLEATS)
    turn = (angle / TAU + 0.5) * pleats[index] + 0.35 * wobble
    amplitude = rng.uniform(0.25, 1, (number, MOST_PLEATS)).astype(np.float32)
    which = np.floor(turn).astype(np.intp) % pleats[index].astype(np.intp)
    fold = (0.5 - 0.5 * np.cos(TAU * turn)) * amplitude[index, which]

    rings = np.clip(np.round(size / rng.uniform(0.065, 0.11)), 1, 2 if rays else 5)
    strength = rng.uniform(0.6, 1, (number, 6)).astype(np.float32)
    vigour = rng.uniform(0.3, 1.25, (number, 64)).astype(np.float32)
    # The pleats zigzag what was one turn of thread.
    jagged = radius + rng.uniform(0.03, 0.1) * (fold - 0.4)
    count = rings[index]
    first = 0.34
    spacing = (0.95 - first) / np.maximum(count - 0.5, 0.5)
    order = np.clip(np.round((0.95 - jagged) / spacing), 0, count - 1)
    pinch = fold * vigour[index, (which + 11 * order.astype(np.intp)) % 64]
    off = (jagged - (0.95 - order * spacing)) / (0.29 * np.minimum(spacing, 0.62))
    # Outside its thread the dye was held back a little longer than inside.
    thread = np.exp(-(off**2) * np.where(off > 0, 1.3, 0.8))
    thread *= strength[index, order.astype(np.intp)] * (0.45 + 0.85 * pinch)

    inside = np.clip((1.0 - jagged) / 0.12, 0, 1)
    half_dyed = inside * (0.13 + 0.3 * fold**1.5) * rng.uniform(0.6, 1.8)
    streaks = (1.0 if rays else rng.uniform(0.45, 0.75)) * fold ** (1.6 if rays else 3)
    streaks = streaks * np.clip((REACH - radius) / 0.42, 0, 1) ** 1.5
    resist = np.maximum(np.maximum(thread, half_dyed), streaks)

    # The knot: cloth over a pebble takes the dye on top, cloth tied flat stays white.
    knot = np.maximum(0.17, 0.022 / size)[index]
    heart = np.exp(-((jagged / knot) ** 2))
    if rng.random() < 0.5:
        halo = np.exp(-(((jagged - 1.15 * knot) / (0.6 * knot)) ** 2))
        resist = np.maximum(resist, 0.95 * halo) * (1 - 0.9 * heart**1.5)
    else:
        resist = np.maximum(resist, heart)
    return resist.astype(np.float32)


def _tie_dot(
    resist: Field,
    x: Field,
    y: Field,
    place_x: float,
    place_y: float,
    radius: float,
    rng: np.random.Generator,
) -> None:
    """Add a seed-sized tie to `resist`: an uneven little ring, darker in the middle."""
    part = _window(x.shape[0], place_x, place_y, 1.6 * radius)
    local_x, local_y = (x[part] - place_x) / radius, (y[part] - place_y) / radius
    squash, lean = rng.uniform(0.85, 1.15), rng.uniform(-0.25, 0.25)
    distance = np.hypot(local_x * squash + lean * local_y, local_y / squash)
    ring = np.exp(-(((distance - 0.62) / 0.36) ** 2)) * rng.uniform(0.8, 1.0)
    uneven = 1 + rng.uniform(0, 0.3) * local_x + rng.uniform(-0.3, 0.3) * local_y
    resist[part] = np.maximum(resist[part], ring * np.clip(uneven, 0.4, 1.1))
