"""Memorisation: the share of images that are copies of a training image.

    E_i = 1 when some training image t has  cos(g_i, t) > c  and  bits(g_i, t) < b,  else 0

with cos that of the judge's vectors and bits the distance of the 64-bit perceptual hashes. Range 0
to 1, lower is better. Both must hold for one and the same t: the cosine alone calls two clean
pictures of one motif a copy, the hash alone two pictures that are dark in the same corner.

c and b come from honest pictures: of each held-out image, which training never saw, the nearest
training image is looked up, and c is the 95 % quantile of these cosines, b the 5 % quantile of
these distances. So a copy is nearer to the training set than nearly any new picture of the style
gets, and the bar moves with the set: of 100 training images one is always rather near, of a single
one none is, and an adapter trained on one image, or on one image a hundred times, is still found
out. With fewer than 10 held-out images the training images count as well, each against the others.
Pairs of at most 4 bits are the same picture twice and calibrate nothing; b is at most 16, since
random hashes are hardly ever nearer, however few images there are to calibrate with. NaN when
nothing is left to calibrate with.

Crops and shifts by more than a few per cent, and mirrored copies, change the hash and are not
found.

On the house example (86 training and 22 held-out images: c 0.954, b 16): training images, also
through the base's autoencoder or under noise, 1.0; new drawings of the same program, a sound
adapter and the bare base 0.0. An adapter trained on one of the images (c 0.68, b 16) 1.0, on three
of them 0.5, where a sound one has 0.0 against the same one or three.

Source: nearer to the training set than held-out images are, after Meehan, Chaudhuri and Dasgupta
2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models" (arXiv:2004.05675);
perceptual hash: imagehash.phash (DCT), after Zauner 2010, "Implementation and Benchmarking of
Perceptual Image Hash Functions".
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import imagehash
import numpy as np
from PIL import Image

from adire_assets.core.statistic import Statistic
from adire_assets.families.diffusion.evaluation.metric_inputs import MetricInputs
from adire_assets.families.diffusion.evaluation.metrics.pictures import fit_to_generated
from adire_assets.families.diffusion.evaluation.metrics.vectors import cosines, zero_or_nan

QUANTILE = 0.95
SAME_PICTURE = 4  # bits of 64: the default of data.near_duplicate_distance
UNLIKE = 16  # bits of 64, of which unrelated pictures differ in about 32
ENOUGH = 10  # held-out images to calibrate with
ROWS = 256  # pictures that are held against all training images at a time

EmbeddingsAndHashes = Sequence[
    tuple[np.ndarray, np.ndarray]
]  # unit vectors [n, d] and hashes [n, 64]


def measure(inputs: MetricInputs) -> Statistic:
    """Whether each image is a copy of a training image, 1 or 0."""
    train = inputs.train.embeddings
    held_out = inputs.held_out.embeddings
    train_hashes = _hashes(fit_to_generated(inputs.train.images, inputs))
    honest = [(held_out, _hashes(fit_to_generated(inputs.held_out.images, inputs)))]
    if len(held_out) < ENOUGH:
        # Each is 0 bits from itself, so it is left out as the same picture.
        honest.append((train, train_hashes))
    limits = _limits(honest, train, train_hashes)
    if limits is None:
        return Statistic(constant=math.nan)
    cosine, bits = limits
    own = [(inputs.embeddings, _hashes(inputs.images))]
    copied = [
        ((near > cosine) & (unlike < bits)).any(1)
        for near, unlike in _against(own, train, train_hashes)
    ]
    each = np.concatenate(copied).astype(np.float64) if copied else np.zeros(0)
    return Statistic(each=each, constant=zero_or_nan(inputs.embeddings, train, held_out))


def _limits(
    honest: EmbeddingsAndHashes, train: np.ndarray, train_hashes: np.ndarray
) -> tuple[float, float] | None:
    """(c, b) from honest pictures against the training images; None without any."""
    nearest, closest = [np.zeros(0)], [np.zeros(0)]
    for cosine, bits in _against(honest, train, train_hashes):
        other = bits > SAME_PICTURE
        counts = other.any(1)
        nearest.append(np.where(other, cosine, -np.inf).max(1, initial=-np.inf)[counts])
        closest.append(np.where(other, bits, 64).min(1, initial=64)[counts])
    if not sum(map(len, nearest)):
        return None
    return (
        float(np.quantile(np.concatenate(nearest), QUANTILE)),
        min(float(np.quantile(np.concatenate(closest), 1 - QUANTILE)), UNLIKE),
    )


def _against(
    pictures: EmbeddingsAndHashes, train: np.ndarray, train_hashes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(cosines, bits that differ) of some pictures with all training images, [n, t] each."""
    for vectors, hashes in pictures:
        for first in range(0, len(vectors), ROWS):
            rows = slice(first, first + ROWS)
            yield cosines(vectors[rows], train), _bits(hashes[rows], train_hashes)


def _hashes(images: Iterable[np.ndarray]) -> np.ndarray:
    """float32 [n, 64] of 0 and 1."""
    found = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
    return np.array(found, np.float32).reshape(-1, 64)


def _bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float32 [n, m]: how many of the 64 bits differ, |a| + |b| - 2 a.b."""
    return one.sum(1)[:, None] + other.sum(1) - 2 * one @ other.T
