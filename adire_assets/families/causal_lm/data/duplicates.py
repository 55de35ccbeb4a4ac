"""Near duplicates among texts: those whose sets of character 5-grams are nearly the same.

MinHash (Broder 1997) with locality-sensitive hashing finds the candidates, of which the Jaccard
similarity is then counted, so that no estimate decides.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from datasketch import MinHash, MinHashLSH

SHINGLE = 5  # characters
PERMUTATIONS = 128
LARGEST_MISS = 1e-4  # probability that two texts as similar as asked are no candidates
PLACES = (
    2**22
)  # of a table of hashes; where two 5-grams share one, their texts only seem more alike


@dataclass(frozen=True)
class Near:
    """The text `index` is like the text `of` before it; `similarity` in [0, 1]."""

    index: int
    of: int
    similarity: float


def plain(text: str) -> str:
    """`text` as it is compared: without case, forms of letters and kinds of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> set[str]:
    """The character 5-grams of `plain(text)`; of a shorter text, itself."""
    compared = plain(text)
    return {
        compared[place : place + SHINGLE] for place in range(max(1, len(compared) - SHINGLE + 1))
    }


def near_duplicates(texts: Sequence[str], similarity: float) -> Iterator[Near]:
    """The texts that are at least so similar to an earlier one that is none itself.

    Each is told with the most similar of these, of equal ones the first.
    """
    index = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(similarity))
    kept: dict[int, np.ndarray] = {}
    table = np.zeros(PLACES, bool)
    for number, (text, sketch) in enumerate(zip(texts, _sketches(texts), strict=True)):
        mine = shingles(text)
        places = np.fromiter((crc32(one.encode()) % PLACES for one in mine), np.int32, len(mine))
        best = Near(number, -1, 0.0)
        for other in _not_less_like(places, kept, sorted(index.query(sketch)), similarity, table):
            found = _jaccard(mine, shingles(texts[other]))
            if found >= similarity and found > best.similarity:
                best = Near(number, other, found)
        if best.of >= 0:
            yield best
        else:
            index.insert(number, sketch)
            kept[number] = places


def _not_less_like(
    places: np.ndarray,
    kept: Mapping[int, np.ndarray],
    others: Sequence[int],
    similarity: float,
    table: np.ndarray,
) -> Iterator[int]:
    """Those of `others` that may be so similar; counted for all together, since there are many
    among texts of one pattern. `table` is all False, and left so."""
    if not others:
        return
    sizes = np.array([len(kept[one]) for one in others])
    table[places] = True
    there = table[np.concatenate([kept[one] for one in others])]
    table[places] = False
    shared = np.add.reduceat(there, np.cumsum(sizes) - sizes, dtype=np.int64)
    for place in np.flatnonzero(shared / (len(places) + sizes - shared) >= similarity):
        yield others[place]


def _sketches(texts: Iterable[str]) -> Iterator[MinHash]:
    sets = ([one.encode() for one in shingles(text)] for text in texts)
    return MinHash.generator(sets, num_perm=PERMUTATIONS, hashfunc=crc32)


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def _bands(similarity: float) -> tuple[int, int]:
    """(bands, rows of each) with the most rows by which no more than LARGEST_MISS is missed."""
    for rows in range(PERMUTATIONS // 2, 1, -1):
        bands = PERMUTATIONS // rows
        if (1 - similarity**rows) ** bands <= LARGEST_MISS:
            return bands, rows
    return PERMUTATIONS, 1
