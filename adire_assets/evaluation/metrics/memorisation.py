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

import imagehash
import numpy as np
from PIL import Image

from adire_assets.evaluation.evidence import Evidence
from adire_assets.evaluation.metrics.pictures import real_pictures
from adire_assets.evaluation.metrics.vectors import cosines, known
from adire_assets.evaluation.statistic import Statistic

QUANTILE = 0.95
SAME_PICTURE = 4  # bits of 64: the default of data.near_duplicate_distance
UNLIKE = 16  # bits of 64, of which unrelated pictures differ in about 32
ENOUGH = 10  # held-out images to calibrate with


def measure(evidence: Evidence) -> Statistic:
    """Whether each image is a copy of a training image, 1 or 0."""
    train = evidence.train.embeddings
    held_out = evidence.held_out.embeddings
    hashes = _hashes(real_pictures(evidence))
    train_hashes, held_out_hashes = hashes[: len(train)], hashes[len(train) :]
    honest = [(cosines(held_out, train), _bits(held_out_hashes, train_hashes))]
    if len(held_out) < ENOUGH:
        # Each is 0 bits from itself, so it is left out as the same picture.
        honest.append((cosines(train, train), _bits(train_hashes, train_hashes)))
    limits = _limits(np.vstack([one for one, _ in honest]), np.vstack([two for _, two in honest]))
    if limits is None:
        return Statistic(constant=math.nan)
    cosine, bits = limits
    near = cosines(evidence.embeddings, train) > cosine
    alike = _bits(_hashes(evidence.images), train_hashes) < bits
    copied = (near & alike).any(1).astype(np.float64)
    return Statistic(each=copied, constant=known(evidence.embeddings, train, held_out))


def _limits(cosine: np.ndarray, bits: np.ndarray) -> tuple[float, float] | None:
    """(c, b) from honest pictures against training images, [m, t] each; None without any."""
    other = bits > SAME_PICTURE
    counts = other.any(1)
    if not counts.any():
        return None
    nearest = np.where(other, cosine, -np.inf).max(1)[counts]
    closest = np.where(other, bits, 64).min(1)[counts]
    return (
        float(np.quantile(nearest, QUANTILE)),
        min(float(np.quantile(closest, 1 - QUANTILE)), UNLIKE),
    )


def _hashes(images: list[np.ndarray] | tuple[np.ndarray, ...]) -> np.ndarray:
    """bool [n, 64]."""
    found = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
    return np.array(found, bool).reshape(-1, 64)


def _bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """int [n, m]: how many bits differ, of bool [n, 64] and [m, 64]."""
    return (one[:, None] != other[None]).sum(-1)
