"""Squared Euclidean distances, exact nearest neighbours, and what rounding cannot tell apart.

Every distance is accurate for its own two points: another point far away costs it no digits. Points are arrays, or tensors on the device
where the work is done (:mod:`fmbench.transport.placing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fmbench.transport.placing import Array, fill_diagonal, host, namespace, zeros

BLOCK = 1024
"""Rows per block of a distance matrix."""
# From here on one matrix product is faster than differences.
PRODUCT_DIMENSION = 64
# |x|^2 + |y|^2 - 2 x.y keeps the digits of a squared distance above this part of |x|^2 + |y|^2; smaller ones are computed from the difference.
CANCELLED = 1e-2
CENTRED = 256
"""Points whose median is the centre."""
SCANNED = 64
"""Rows that are searched for cancellation at a time on the CPU: they stay in the cache. Elsewhere every search is a wait: all at once."""
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


def squared_distances(x: Array, y: Array) -> Array:
    """Squared Euclidean distances, (n, m) float64, between (n, d) and (m, d) points, each accurate to 1e-11 of itself.

    In low dimension from the differences; from 64 dimensions on by one matrix product of centred points, and from the differences where
    the product cancels, so that equal points are at distance exactly 0.
    """
    x, y = _float64(x), _float64(y)
    if x.shape[1] < PRODUCT_DIMENSION:
        return _from_differences(x, y)
    # Medians, because a mean follows a single far point and takes all others away from the centre.
    centre = 0.5 * (_median(x[:CENTRED]) + _median(y[:CENTRED]))
    near_x, near_y = x - centre, y - centre
    norms_x, norms_y = (near_x * near_x).sum(axis=1), (near_y * near_y).sum(axis=1)  # type: ignore[call-overload]
    near_x *= -2.0
    squared = near_x @ near_y.T
    squared += norms_x[:, None]
    squared += norms_y
    step = SCANNED if isinstance(x, np.ndarray) else max(1, len(x))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        _restore(squared[rows], x[rows], y, norms_x[rows], norms_y)
    return squared


def _float64(x: Array) -> Array:
    return x.double() if isinstance(x, Tensor) else np.asarray(x, dtype=np.float64)


def _median(x: Array) -> Array:
    """Of every column; of an even number the tensor's is the lower of the two in the middle, which centres as well."""
    return x.median(dim=0).values if isinstance(x, Tensor) else np.median(x, axis=0)


def _from_differences(x: Array, y: Array) -> Array:
    if isinstance(x, Tensor):
        squared = zeros((len(x), len(y)), x)
        # One column after the other: an (n, m, d) tensor has no room, and torch.cdist takes a root on the way.
        for column in range(x.shape[1]):
            gap = x[:, column, None] - y[:, column]
            squared.addcmul_(gap, gap)
        return squared
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean")


def _restore(squared: Array, x: Array, y: Array, norms_x: Array, norms_y: Array) -> None:
    """Replace the squared distances, in place, in which the two norms nearly cancel."""
    # A pair above the bound of its row does not cancel, whatever its column; the few below are looked at one by one.
    i, j = _where(squared < CANCELLED * (norms_x + norms_y.max())[:, None])
    cancelled = squared[i, j] < CANCELLED * (norms_x[i] + norms_y[j])
    i, j = i[cancelled], j[cancelled]
    if len(i) > len(x) * len(y) // 4:
        squared[:] = _from_differences(x, y)
        return
    step = max(1, GATHERED // x.shape[1])
    for start in range(0, len(i), step):
        a, b = i[start : start + step], j[start : start + step]
        gap = x[a] - y[b]
        squared[a, b] = namespace(x).einsum("nd,nd->n", gap, gap)


def _where(condition: Any) -> tuple[Any, Any]:
    """Row and column indices of what is true."""
    i, j = condition.nonzero(as_tuple=True) if isinstance(condition, Tensor) else np.nonzero(condition)
    return i, j


def tie_width(squared: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """By how much a squared distance from every centre may differ from ``squared`` and still be a tie, (n,) for (n,) and (n, d).

    What :func:`squared_distances` rounds off, a part of the squared distance itself, and what rounding the coordinates to float64 does to
    it: it depends on the two points at that distance and on no other.
    """
    d = centres.shape[1]
    relative = 8 * (d + 2) if d < PRODUCT_DIMENSION else 8 * (8 + d**0.5) / CANCELLED
    norms = np.sqrt(np.einsum("nd,nd->n", centres, centres, dtype=np.float64))
    return EPS * (relative * squared + 16 * np.sqrt(squared) * norms)


def nearest(x: Array, y: Array | None = None, k: int = 1, block: int = BLOCK) -> Neighbours:
    """The ``k`` nearest points of ``y`` for every point of ``x``, as arrays; of the *other* points of ``x`` when ``y`` is not given.

    A point is left out by its index, not by its distance, so exact duplicates are each other's neighbours at distance 0. Which of several
    points at the same distance is taken is left open.
    Raises ValueError when there are fewer than ``k`` points to choose from.
    """
    points = x if y is None else y
    available = len(points) - (y is None)
    if not 1 <= k <= available:
        raise ValueError(f"k must be between 1 and the {available} points there are to choose from, got {k}")
    squared, index = np.empty((len(x), k)), np.empty((len(x), k), dtype=np.int64)
    for start in range(0, len(x), block):
        distances = squared_distances(x[start : start + block], points)
        if y is None:
            fill_diagonal(distances, np.inf, start)
        rows = slice(start, start + len(distances))
        squared[rows], index[rows] = _smallest(distances, k)
    return Neighbours(squared, index)


def _smallest(distances: Array, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of every row in their order, and their columns, both (n, k)."""
    if isinstance(distances, Tensor):
        found = distances.topk(k, dim=1, largest=False)
        return host(found.values), host(found.indices)
    chosen = np.argpartition(distances, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(distances, chosen, axis=1), axis=1, kind="stable")
    index = np.take_along_axis(chosen, order, axis=1)
    return np.take_along_axis(distances, index, axis=1), index
