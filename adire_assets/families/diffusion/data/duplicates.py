"""Near duplicates among perceptual hashes, for as many images as fit a hundred thousand hashes.

The Hamming distance of two 64-bit hashes with bits as +1 and -1 is (64 - their dot product) / 2, so
a matrix product finds the nearest neighbours of a block of images exactly and at BLAS speed, with
memory for one block only.
"""

import numpy as np

BITS = 64
BLOCK = 2048  # images per side of a block: 16 MB of float32


def as_signs(hashes: np.ndarray) -> np.ndarray:
    """uint8 [n, 8] packed hashes as float32 [n, 64] of +1 and -1."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def nearest_earlier(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of uint8 [n, 8]: index and distance (bits) of the nearest hash before it.

    The first of equals is given. The first hash has none: index -1, distance 65.
    """
    return _nearest(hashes, hashes, earlier=True)


def nearest(queries: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of uint8 [n, 8]: index and distance (bits) of the nearest of `others` [m, 8]."""
    return _nearest(queries, others, earlier=False)


def _nearest(
    queries: np.ndarray, others: np.ndarray, *, earlier: bool
) -> tuple[np.ndarray, np.ndarray]:
    index = np.full(len(queries), -1, dtype=np.int64)
    distance = np.full(len(queries), BITS + 1, dtype=np.int64)
    for top in range(0, len(queries), BLOCK):
        rows = slice(top, top + BLOCK)
        block = as_signs(queries[rows])
        end = min(top + BLOCK, len(others)) if earlier else len(others)
        for left in range(0, end, BLOCK):
            product = block @ as_signs(others[left : min(left + BLOCK, end)]).T
            if earlier and left == top:
                product[np.triu_indices(len(product))] = -BITS - 2  # itself and later ones
            best = product.argmax(axis=1)
            found = (BITS - product[np.arange(len(block)), best].astype(np.int64)) // 2
            closer = found < distance[rows]
            distance[rows] = np.where(closer, found, distance[rows])
            index[rows] = np.where(closer, best + left, index[rows])
    return index, distance
