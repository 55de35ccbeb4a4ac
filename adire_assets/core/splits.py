"""Three splits by content: where an item falls is a function of its own content alone.

A digest of the content gives a score in [0, 1); the lowest scores are held out, the next are for
validation, the rest is trained on. Adding items therefore moves no other.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

# Split -> its name in a sentence, those that count more first.
SPLITS = {"held_out": "held-out", "validation": "validation", "train": "training"}
LARGEST_SHARE_NOT_TRAINED = 0.8
DIGITS = 13  # hexadecimal digits that a float holds exactly
LEAST_HUNDREDTH_HELD_OUT = 5
LARGEST_HUNDREDTH = 50


def score(digest: str) -> float:
    """The score in [0, 1) of content with this hexadecimal digest."""
    return int(digest[:DIGITS], 16) / 16**DIGITS


def split_of(score: float, held_out_fraction: float, validation_fraction: float) -> str:
    """The split, a key of SPLITS, of an item with this score."""
    if score < held_out_fraction:
        return "held_out"
    return "validation" if score < held_out_fraction + validation_fraction else "train"


def fractions_that_give(
    scores: Sequence[float], now: Mapping[str, float], held_out: int, train: int
) -> Iterator[dict[str, float]]:
    """Fractions by which at least `held_out` items are held out and `train` items trained on.

    `scores` are those of all items. The fractions nearest to `now` (`held_out_fraction`,
    `validation_fraction`) come first; none has a larger validation split.
    """
    ordered, names = sorted(scores), ("held_out_fraction", "validation_fraction")
    before = tuple(now[name] for name in names)
    hundredths = [share / 100 for share in range(LARGEST_HUNDREDTH + 1)]
    shares = product({before[0], *hundredths[LEAST_HUNDREDTH_HELD_OUT:]}, {before[1], *hundredths})
    for pair in sorted(shares, key=lambda s: (abs(s[0] - before[0]) + abs(s[1] - before[1]), s)):
        trained = len(ordered) - bisect_left(ordered, sum(pair))
        if (
            pair[1] <= before[1]
            and sum(pair) <= LARGEST_SHARE_NOT_TRAINED
            and bisect_left(ordered, pair[0]) >= held_out
            and trained >= train
        ):
            yield dict(zip(names, pair, strict=True))


def told(fractions: Mapping[str, float], now: Mapping[str, float]) -> str:
    """The keys of the section `data` that change, for a sentence after "set"."""
    changed = [f"data.{key} to {one:.2f}" for key, one in fractions.items() if one != now[key]]
    return " and ".join(changed)
