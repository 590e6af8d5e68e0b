"""Checks of sets of points: two finite (n, d) arrays, or an error in one line."""

from __future__ import annotations

import numpy as np

LARGEST, SMALLEST = 1e150, 1e-150
"""Values beyond these overflow or vanish when squared and summed."""


def checked(name: str, given: np.ndarray, least: int = 1, first_row: int = 0) -> np.ndarray:
    """A finite (n, d) float64 array with at least ``least`` rows; ``first_row`` is the number of its first row in what the caller has.

    Raises ValueError in one line that begins with ``name``, see :func:`checked_samples`.
    """
    if isinstance(given, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; leave the masked samples out and pass the rest")
    array = np.asarray(given)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got {array.dtype}")
    array = array.astype(np.float64, copy=False)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must be an (n, d) array with d of at least 1, got shape {array.shape}")
    if len(array) < least:
        raise ValueError(f"{name} needs at least {least} samples, got {len(array)}")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{name} has {int(bad.sum())} NaN or infinite values, the first at row {first_row + row}, column {column}"
        )
    if (largest := magnitude(array)) > LARGEST:
        raise ValueError(f"{name} has values up to {largest:.3g}, whose squares overflow; rescale both sets")
    return array


def magnitude(array: np.ndarray) -> float:
    """Largest absolute value, 0 of an empty array."""
    return max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))


def checked_samples(x: np.ndarray, y: np.ndarray | None = None, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two finite (n, d) float64 arrays of equal dimension with at least ``least`` rows (y = x when not given).

    Raises ValueError in one line: wrong rank, unequal dimensions, too few rows, masked or not real, NaN or infinite values (how many,
    where first), values whose squares overflow or, all of them, vanish.
    """
    arrays = [checked("x", x, least), checked("y", x if y is None else y, least)]
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise ValueError(f"x and y must have the same dimension, got {arrays[0].shape[1]} and {arrays[1].shape[1]}")
    refuse_vanishing(*arrays)
    return arrays[0], arrays[1]


def refuse_vanishing(*arrays: np.ndarray) -> None:
    """Raises ValueError when no value of any array is large enough for its square, though some value is not 0."""
    if 0 < (largest := max(magnitude(array) for array in arrays)) < SMALLEST:
        raise ValueError(f"no value is larger than {largest:.3g}, so that all squares vanish; rescale both sets")
