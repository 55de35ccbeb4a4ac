"""Which images go together: shapes of about equal area, and the order of the batches.

Everything here is a function of the images' sizes, the seed and a batch's number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from adire_assets.families.training.draws import permutation

SIDES = 8  # a bucket's sides are multiples of resolution / 8, so 64 pixels at 512
LONGEST = 2  # times the resolution at most, and at least the resolution through this
ROW_STREAM, TURN_STREAM = 2, 3  # kinds of draws, see `draws.stream`

Shape = tuple[int, int]  # width, height in pixels


def shapes(resolution: int, multiple: int) -> list[Shape]:
    """The buckets of a resolution: no larger in area than its square.

    Sides are multiples of resolution / 8, which is made a multiple of `multiple` (what the
    autoencoder and the denoiser divide by).
    """
    step = max(round(resolution / SIDES / multiple), 1) * multiple
    found = set()
    for width in range(step, LONGEST * resolution + 1, step):
        height = min(resolution**2 // width // step * step, LONGEST * resolution)
        if LONGEST * min(width, height) >= resolution:
            found |= {(width, height), (height, width)}
    return sorted(found)


def nearest(size: Shape, buckets: Sequence[Shape]) -> Shape:
    """The bucket that cuts the least from an image, the larger of equal ones."""

    def left(bucket: Shape) -> tuple[float, int]:
        image, wanted = size[0] / size[1], bucket[0] / bucket[1]
        return min(image / wanted, wanted / image), bucket[0] * bucket[1]

    return max(buckets, key=left)


@dataclass(frozen=True)
class Order:
    """Batches of `size` rows of one bucket each, for ever, drawn by `seed`.

    `rows[b]` are the rows of bucket b, as often as they are to be repeated. Each bucket is an
    endless stream of permutations of its rows. An epoch takes as many batches from each as hold all
    its rows once; in which order the buckets come is drawn anew.
    """

    rows: tuple[tuple[int, ...], ...]
    size: int
    seed: int

    @property
    def epoch(self) -> tuple[int, ...]:
        """Batches of each bucket in an epoch."""
        return tuple(-(-len(rows) // self.size) for rows in self.rows)

    def batch(self, number: int) -> tuple[int, list[int]]:
        """(bucket, rows) of batch `number`, from 0."""
        epoch, place = divmod(number, sum(self.epoch))
        bucket, nth = _turns(self.epoch, self.seed, epoch)[place]
        first = (epoch * self.epoch[bucket] + nth) * self.size
        return bucket, [self._row(bucket, position) for position in range(first, first + self.size)]

    def _row(self, bucket: int, position: int) -> int:
        time, place = divmod(position, len(self.rows[bucket]))
        order = permutation(len(self.rows[bucket]), self.seed, ROW_STREAM, time, bucket)
        return self.rows[bucket][order[place]]


@lru_cache(maxsize=2)
def _turns(counts: tuple[int, ...], seed: int, epoch: int) -> list[tuple[int, int]]:
    """(bucket, how many of its batches came before) for each batch of an epoch."""
    labels = [bucket for bucket, count in enumerate(counts) for _ in range(count)]
    seen = [0] * len(counts)
    turns = []
    for place in permutation(len(labels), seed, TURN_STREAM, epoch):
        bucket = labels[place]
        turns.append((bucket, seen[bucket]))
        seen[bucket] += 1
    return turns
