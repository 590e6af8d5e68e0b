"""Squared Euclidean distances, exact nearest neighbours, and what rounding cannot tell apart.

Every distance is accurate for its own two points: another point far away costs it no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1024
"""Rows per block of a distance matrix."""
# From here on one matrix product is faster than differences.
PRODUCT_DIMENSION = 64
# |x|^2 + |y|^2 - 2 x.y keeps the digits of a squared distance above this part of |x|^2 + |y|^2; smaller ones are computed from the difference.
CANCELLED = 1e-2
CENTRED = 256
"""Points whose median is the centre."""
SCANNED = 64
"""Rows that are searched for cancellation at a time: they stay in the cache."""
GATHERED = 1 << 22
"""Values of differences held at a time."""
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours in order of distance.

    Attributes:
        squared: (n, k) squared distances.
        index: (n, k) indices into the points searched.
    """

    squared: np.ndarray
    index: np.ndarray


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, (n, m) float64, between (n, d) and (m, d) points, each accurate to 1e-11 of itself.

    In low dimension from the differences; from 64 dimensions on by one matrix product of centred points, and from the differences where
    the product cancels, so that equal points are at distance exactly 0.
    """
    from scipy.spatial.distance import cdist

    if x.shape[1] < PRODUCT_DIMENSION:
        return cdist(x, y, "sqeuclidean")
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    # Medians, because a mean follows a single far point and takes all others away from the centre.
    centre = 0.5 * (np.median(x[:CENTRED], axis=0) + np.median(y[:CENTRED], axis=0))
    near_x, near_y = x - centre, y - centre
    norms_x, norms_y = (near_x * near_x).sum(axis=1), (near_y * near_y).sum(axis=1)
    near_x *= -2.0
    squared = near_x @ near_y.T
    squared += norms_x[:, None]
    squared += norms_y
    for start in range(0, len(x), SCANNED):
        rows = slice(start, start + SCANNED)
        _restore(squared[rows], x[rows], y, norms_x[rows], norms_y)
    return squared


def _restore(squared: np.ndarray, x: np.ndarray, y: np.ndarray, norms_x: np.ndarray, norms_y: np.ndarray) -> None:
    """Replace the squared distances, in place, in which the two norms nearly cancel."""
    from scipy.spatial.distance import cdist

    # A pair above the bound of its row does not cancel, whatever its column; the few below are looked at one by one.
    i, j = np.nonzero(squared < CANCELLED * (norms_x + norms_y.max())[:, None])
    cancelled = squared[i, j] < CANCELLED * (norms_x[i] + norms_y[j])
    i, j = i[cancelled], j[cancelled]
    if len(i) > squared.size // 4:
        squared[:] = cdist(x, y, "sqeuclidean")
        return
    step = max(1, GATHERED // x.shape[1])
    for start in range(0, len(i), step):
        a, b = i[start : start + step], j[start : start + step]
        gap = x[a] - y[b]
        squared[a, b] = np.einsum("nd,nd->n", gap, gap)


def tie_width(squared: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """By how much a squared distance from every centre may differ from ``squared`` and still be a tie, (n,) for (n,) and (n, d).

    What :func:`squared_distances` rounds off, a part of the squared distance itself, and what rounding the coordinates to float64 does to
    it: it depends on the two points at that distance and on no other.
    """
    d = centres.shape[1]
    relative = 8 * (d + 2) if d < PRODUCT_DIMENSION else 8 * (8 + d**0.5) / CANCELLED
    norms = np.sqrt(np.einsum("nd,nd->n", centres, centres, dtype=np.float64))
    return EPS * (relative * squared + 16 * np.sqrt(squared) * norms)


def nearest(x: np.ndarray, y: np.ndarray | None = None, k: int = 1, block: int = BLOCK) -> Neighbours:
    """The ``k`` nearest points of ``y`` for every point of ``x``; of the *other* points of ``x`` when ``y`` is not
    given.

    A point is left out by its index, not by its distance, so exact duplicates are each other's neighbours at distance
    0.
    Raises ValueError when there are fewer than ``k`` points to choose from.
    """
    points = x if y is None else y
    available = len(points) - (y is None)
    if not 1 <= k <= available:
        raise ValueError(f"k must be between 1 and the {available} points there are to choose from, got {k}")
    squared, index = np.empty((len(x), k)), np.empty((len(x), k), dtype=np.int64)
    for start in range(0, len(x), block):
        distances = squared_distances(x[start : start + block], points)
        rows = np.arange(len(distances))
        if y is None:
            distances[rows, start + rows] = np.inf
        chosen = np.argpartition(distances, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(distances, chosen, axis=1), axis=1, kind="stable")
        index[start + rows] = np.take_along_axis(chosen, order, axis=1)
        squared[start + rows] = np.take_along_axis(distances, index[start + rows], axis=1)
    return Neighbours(squared, index)
