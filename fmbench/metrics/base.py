"""What the harness hands to a metric, and how single estimates become intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fmbench.result import Estimate

Z95 = 1.959963984540054
GROUPS = 20
"""Groups of the delete-a-group jackknife."""


@dataclass
class SampleContext:
    """Samples of one sampler and one evaluation seed, beside what they are compared with.

    Attributes:
        kind: kind of the task, ``vector`` or ``image``.
        seed: evaluation seed.
        samples: (n, d) float64, flattened.
        reference: (m, d) float64 real samples.
        reference_sha256: hash of the reference samples.
        endpoints: (k, d) reference solutions from the same first k noises, None without a velocity field.
        extract: features of flattened samples, (n, d) -> (n, f), None for vector tasks.
        extractor: name and hash of the feature extractor.
        reference_features: (m, f) features of the reference.
        only_seed: whether this is the protocol's only seed, so that the interval must come from these samples alone.
    """

    kind: str
    seed: int
    samples: np.ndarray
    reference: np.ndarray
    reference_sha256: str
    endpoints: np.ndarray | None = None
    extract: Callable[[np.ndarray], np.ndarray] | None = None
    extractor: dict[str, Any] | None = None
    reference_features: np.ndarray | None = None
    only_seed: bool = True

    @cached_property
    def features(self) -> np.ndarray:
        """Features of the samples."""
        assert self.extract is not None
        return self.extract(self.samples)

    @property
    def details(self) -> dict[str, Any]:
        """What pins a feature metric: extractor and reference."""
        return {
            "extractor": self.extractor,
            "reference_sha256": self.reference_sha256,
            "reference_n": len(self.reference),
        }


def checked_samples(x: np.ndarray, y: np.ndarray | None = None, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two finite (n, d) float64 arrays of equal dimension with at least ``least`` rows (y = x when not given).

    Raises ValueError in one line: wrong rank, unequal dimensions, too few rows, NaN or infinite values (how many, where first).
    """
    arrays = []
    for name, array in (("x", x), ("y", x if y is None else y)):
        array = np.asarray(array, dtype=np.float64)
        if array.ndim != 2:
            raise ValueError(f"{name} must be an (n, d) array, got shape {array.shape}")
        if len(array) < least:
            raise ValueError(f"{name} needs at least {least} samples, got {len(array)}")
        bad = ~np.isfinite(array)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{name} has {int(bad.sum())} NaN or infinite values, the first at row {row}, column {column}"
            )
        arrays.append(array)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise ValueError(f"x and y must have the same dimension, got {arrays[0].shape[1]} and {arrays[1].shape[1]}")
    return arrays[0], arrays[1]


def mean_estimate(values: np.ndarray, **details: Any) -> Estimate:
    """Mean of independent per-sample values with its normal 95 % interval."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    ci = (mean - half, mean + half) if math.isfinite(half) else None
    return Estimate(mean, ci, len(values), details=details)


def jackknife_estimate(
    statistic: Callable[[np.ndarray], float], n: int, groups: int = GROUPS, **details: Any
) -> Estimate:
    """Value on all ``n`` samples with a delete-a-group jackknife interval.

    ``statistic`` gets the indices of the samples to use. Groups are interleaved, so that they are exchangeable whatever the order.
    """
    everything = np.arange(n)
    value = float(statistic(everything))
    groups = min(groups, n // 2)
    if groups < 2:
        return Estimate(value, None, n, details=details)
    partial = np.array([statistic(everything[everything % groups != g]) for g in range(groups)])
    error = math.sqrt((groups - 1) / groups * float(((partial - partial.mean()) ** 2).sum()))
    return Estimate(value, (value - Z95 * error, value + Z95 * error), n, details=details)


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Combine one estimate per evaluation seed: their mean with a Student t interval; a single seed keeps its own interval."""
    from scipy.stats import t as student

    missing = [e for e in estimates if e.value is None]
    if missing:
        return missing[0]
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([e.value for e in estimates], dtype=np.float64)
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    mean = float(values.mean())
    details = {**estimates[0].details, "per_seed": values.tolist()}
    return Estimate(mean, (mean - half, mean + half), sum(e.n for e in estimates), details=details)
