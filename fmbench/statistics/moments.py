"""Mean and covariance of samples as sums that add over disjoint sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmbench.statistics.samples import checked_samples


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums that determine mean and covariance; they add over disjoint sets of samples and subtract for subsets.

    Sums are not centred: features whose mean is far larger than their spread lose ``log10((mean / std)^2)`` of 16
    digits, so subtract a common offset from all features first where that matters (the Frechet distance does not
    change).

    Attributes:
        n: number of samples.
        sum: (d,) float64, sum of the samples.
        outer: (d, d) float64, sum of ``x x^T``.
    """

    n: int
    sum: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Moments:
        """Moments of samples, (n, d). Raises ValueError in one line for another rank or values that are not finite."""
        x, _ = checked_samples(x)
        return cls(len(x), x.sum(axis=0), x.T @ x)

    @classmethod
    def about(cls, x: np.ndarray, offset: np.ndarray, rows: int = 1000) -> Moments:
        """Moments of ``x - offset``, ``rows`` at a time, so that float32 or mapped features are never copied whole to float64."""
        total = cls.of(x[:rows] - offset)
        for start in range(rows, len(x), rows):
            total = total + cls.of(x[start : start + rows] - offset)
        return total

    def __add__(self, other: Moments) -> Moments:
        """Moments of the union of two disjoint sets."""
        return Moments(self.n + other.n, self.sum + other.sum, self.outer + other.outer)

    def __sub__(self, other: Moments) -> Moments:
        """Moments of what is left when a subset is taken away. Raises ValueError when nothing is left."""
        if other.n >= self.n:
            raise ValueError(f"cannot take {other.n} samples away from {self.n}; the subset must be smaller")
        return Moments(self.n - other.n, self.sum - other.sum, self.outer - other.outer)

    @property
    def mean(self) -> np.ndarray:
        """Mean, (d,)."""
        return self.sum / self.n

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance (ddof 1), (d, d); exactly 0 when it is below what rounding of the sums may leave (equal samples).

        Raises ValueError for fewer than two samples.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.n}")
        cov = (self.outer - np.outer(self.sum, self.mean)) / (self.n - 1)
        if np.abs(cov).max() <= np.finfo(np.float64).eps * np.abs(self.outer).max():
            return np.zeros_like(cov)
        return (cov + cov.T) / 2
