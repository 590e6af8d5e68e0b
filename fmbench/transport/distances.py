"""Euclidean distances in blocks and exact nearest neighbours: what precision, recall and the memorisation metrics
share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1024
"""Rows per block of a distance matrix."""


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
    """Squared Euclidean distances, (n, d) and (m, d) -> (n, m), by ``|x|^2 + |y|^2 - 2 x.y`` with negative round-off
    clipped to 0.

    The absolute error is a few eps times the largest squared norm: centre the points first when they lie far from the
    origin.
    """
    squared = x @ y.T
    squared *= -2.0
    squared += np.einsum("nd,nd->n", x, x)[:, None]
    squared += np.einsum("md,md->m", y, y)[None]
    return np.maximum(squared, 0.0, out=squared)


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
