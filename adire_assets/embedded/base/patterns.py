"""The patterns that the tiny base model learns composition from, and their words.

Contract: a `Pattern` says what an image shows (pattern_images.py draws it), and its caption says
the pattern (fixed phase, named sizes), for a small UNet learns motifs only when chance has little
say. Indigo with off-white comes on request only: that is what an adire LoRA has to teach.
"""

from dataclasses import dataclass, replace

import numpy as np

from adire_assets.embedded.cloth.eleko import PLURALS, listing

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.12, 0.14),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.96, 0.85, 0.22),
    "green": (0.16, 0.58, 0.24),
    "teal": (0.08, 0.62, 0.64),
    "blue": (0.16, 0.40, 0.93),
    "purple": (0.55, 0.18, 0.66),
    "pink": (0.95, 0.55, 0.72),
    "brown": (0.45, 0.27, 0.13),
    "black": (0.08, 0.08, 0.08),
    "white": (0.95, 0.95, 0.93),
    "grey": (0.55, 0.55, 0.55),
}
INDIGO_COLOURS = {"indigo": (0.085, 0.135, 0.32), "white": (0.93, 0.91, 0.85)}
FORBIDDEN_PAIR = {"blue", "white"}  # the nearest that the named colours come to adire
MINIMUM_CONTRAST = 0.4  # Euclidean RGB distance: below it a motif is hard to see

SINGULARS = {plural: name for name, plural in PLURALS.items() if name != "ring"}
SINGULARS |= {"rings": "rings", "letters": "letter"}
CELL_MOTIFS = (
    "circles",
    "rings",
    "stars",
    "flowers",
    "suns",
    "spirals",
    "triangles",
    "diamonds",
    "leaves",
    "squares",
    "crosses",
    "moons",
    "combs",
    "fish",
    "wheels",
    "letters",
)
FILLINGS = ("zigzag", "lines", "checks")  # motifs of a cell beside others in a grid
DIRECTIONS = {
    "stripes": ("horizontal", "vertical", "diagonal"),
    "dashed lines": ("horizontal", "vertical", "diagonal"),
    "dotted lines": ("horizontal", "vertical", "diagonal"),
    "waves": ("horizontal", "vertical"),
    "zigzag": ("horizontal", "vertical"),
    "dashed waves": ("horizontal", "vertical"),
    "dashed zigzag": ("horizontal", "vertical"),
}
NESTED = ("nested squares", "nested diamonds", "dashed rings", "dashed squares", "dashed diamonds")
COUNTS = {  # bands per side, wide or thin; (4, 8) for the other motifs that fill the field
    "waves": (4, 6),
    "zigzag": (4, 6),
    **dict.fromkeys(("dashed waves", "dashed zigzag", "dashed lines"), (6, 9)),
    **dict.fromkeys(NESTED[2:], (7, 11)),
}
SIZES = ("wide", "thin")
FIELD_MOTIFS = (*DIRECTIONS, "checks", "grid lines", "lattice", "scales", "rays", *NESTED)
MOTIF_WORDS = CELL_MOTIFS + FIELD_MOTIFS
LAYOUTS = {  # of cell motifs: how often
    "many": 0.16,
    "rows": 0.14,
    "shifted": 0.08,
    "large": 0.16,
    "corners": 0.07,
    "ringed": 0.07,
    "scattered": 0.05,
    "grid": 0.27,
}
SMALL = ("circles", "stars", "diamonds", "moons", "flowers", "crosses")  # round a large motif
COUNT_WORDS = {2: "four", 3: "nine", 4: "sixteen"}
BORDERS = ("plain", "dotted", "striped", "zigzag")
FINISHES = {"": 0.7, "folded": 0.08, "worn": 0.08, "pale": 0.07, "blurred": 0.07}


@dataclass(frozen=True)
class Pattern:
    """What one generic image shows; `caption` says the same in words."""

    motif: str  # one of MOTIF_WORDS
    foreground: str  # a key of COLOURS, or of INDIGO_COLOURS
    background: str
    layout: str  # one of LAYOUTS, or a direction for the motifs that fill the field
    count: int  # cells or bands per side
    others: tuple[str, ...] = ()  # motifs that take turns with the first, or surround it
    border: str = ""  # one of BORDERS
    finish: str = ""  # one of FINISHES

    def things(self) -> str:
        """The pattern in words without its background, lower case."""
        coloured = f"{self.foreground} {self.motif}"
        if self.layout == "many":
            words = f"many small {coloured}"
        elif self.layout == "rows":
            words = f"{coloured} in rows"
        elif self.layout == "shifted":
            words = f"{coloured} in shifted rows"
        elif self.layout == "scattered":
            words = f"scattered {coloured}"
        elif self.layout == "large":
            words = self._large()
        elif self.layout == "corners":
            words = f"{self._large()} and four small {self.others[0]}"
        elif self.layout == "ringed":
            words = f"{self._large()} inside a ring of small {self.others[0]}"
        elif self.layout == "grid":
            listed = listing([coloured, *self.others])
            words = f"grid of {COUNT_WORDS[self.count]} squares with {listed}"
        else:
            sizes = ("large", "small") if self.motif in ("rays", "scales", "checks") else SIZES
            size = sizes[self.count > min(COUNTS.get(self.motif, (4, 8)))]
            words = " ".join(filter(None, (size, self.layout, coloured)))
        return f"{words} with a {self.border} border" if self.border else words

    def _large(self) -> str:
        if self.motif == "rings":
            return f"large {self.foreground} rings"
        return f"one large {self.foreground} {SINGULARS[self.motif]}"

    def ground(self) -> str:
        """The background in words."""
        return f"{self.finish} {self.background} cloth" if self.finish else self.background

    def caption(self, short: bool = False) -> str:
        """The pattern in words, lower case; `short` leaves out the layout."""
        things = f"{self.foreground} {self.motif}" if short else self.things()
        return f"{things} on {self.background if short else self.ground()}"

    def with_motif(self, motif: str) -> "Pattern":
        """The same with another motif; between kinds, in the nearest layout."""
        if (motif in CELL_MOTIFS) == (self.motif in CELL_MOTIFS):
            layout = self.layout
            if motif in FIELD_MOTIFS:
                ways = DIRECTIONS.get(motif, ("",))
                layout = layout if layout in ways else ways[0]
            counts, mine = COUNTS.get(motif, (4, 8)), COUNTS.get(self.motif, (4, 8))
            count = counts[mine.index(self.count)] if motif in FIELD_MOTIFS else self.count
            return replace(self, motif=motif, layout=layout, count=count)
        if motif in FIELD_MOTIFS:
            count = COUNTS.get(motif, (4, 8))[self.count > 2]
            layout = DIRECTIONS.get(motif, ("",))[0]
            return replace(self, motif=motif, layout=layout, count=count, others=())
        return replace(self, motif=motif, layout="many", count=4)


def choose_colours(rng: np.random.Generator) -> tuple[str, str]:
    """Two different names of COLOURS that stand out from each other and do not look like adire."""
    while True:
        first, second = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
        contrast = np.linalg.norm(np.subtract(COLOURS[first], COLOURS[second]))
        if contrast >= MINIMUM_CONTRAST and {first, second} != FORBIDDEN_PAIR:
            return first, second


def choose_pattern(rng: np.random.Generator, indigo: bool = False) -> Pattern:
    """Draw lots for a pattern; with `indigo`, the two colours are indigo and (off-)white."""
    foreground, background = choose_colours(rng)
    if indigo:
        foreground, background = ("white", "indigo") if rng.random() < 0.7 else ("indigo", "white")
    finish = str(rng.choice(list(FINISHES), p=list(FINISHES.values())))
    border = ""
    others: tuple[str, ...] = ()
    if rng.random() < 0.62:
        motif = str(rng.choice(CELL_MOTIFS))
        layout = str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
        count = {"many": 5, "rows": 3, "shifted": 3, "grid": int(rng.choice([2, 2, 3, 3, 4]))}.get(
            layout, 1
        )
        if layout == "grid":
            more = int(rng.choice([0, 1, 2, 3], p=[0.25, 0.35, 0.2, 0.2]))
            pool = [name for name in (*CELL_MOTIFS, *FILLINGS) if name != motif]
            others = tuple(str(name) for name in rng.choice(pool, more, replace=False))
        elif layout in ("corners", "ringed"):
            others = (str(rng.choice([name for name in SMALL if name != motif])),)
        bordered = layout in ("large", "many") and rng.random() < 0.25
    else:
        motif = str(rng.choice(FIELD_MOTIFS))
        layout = str(rng.choice(DIRECTIONS.get(motif, ("",))))
        count = int(rng.choice(COUNTS.get(motif, (4, 8))))
        bordered = rng.random() < 0.15
    if bordered:
        border = str(rng.choice(BORDERS))
    return Pattern(motif, foreground, background, layout, count, others, border, finish)


def describe(pattern: Pattern, rng: np.random.Generator) -> str:
    """A caption in one of a few natural forms."""
    chance = rng.random()
    if chance < 0.04:
        return pattern.motif
    if chance < 0.1:
        return pattern.caption(short=True)
    if chance < 0.28:
        finish = f"{pattern.finish} " if pattern.finish else ""
        return f"{finish}{pattern.background} cloth with {pattern.things()}"
    prefix = str(rng.choice(["", "", "a photo of ", "a drawing of ", "a pattern of "]))
    suffix = "" if pattern.finish else str(rng.choice(["", " cloth"]))
    return prefix + pattern.caption() + suffix
