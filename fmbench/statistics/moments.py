"""Mean and covariance of samples, computed in blocks, and of the samples without each group in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fmbench.statistics.samples import checked

ROWS = 1000
"""Rows per block, so that float32 or mapped features are never copied whole to float64."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of samples; those of disjoint sets add (Chan, Golub & LeVeque, Am. Stat. 37, 1983).

    The scatter is about the set's own mean, so its digits do not depend on where the samples lie: a set collapsed to a point, or far from
    the origin, keeps those of its coordinates. Moments cannot be subtracted, which would lose them again: see :func:`without_each`.

    Attributes:
        n: number of samples.
        mean: (d,) float64.
        scatter: (d, d) float64, sum of ``(x - mean) (x - mean)^T``; exactly 0 for equal samples.
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, rows: int = ROWS) -> Moments:
        """Moments of samples, (n, d), ``rows`` at a time.

        Raises ValueError in one line for another rank, no samples or values that are not finite.
        """
        total: Moments | None = None
        for start in range(0, max(len(x), 1), rows):
            block = checked("x", x[start : start + rows], first_row=start)
            # About the first sample the mean rounds like the spread and not like the samples, and equal samples leave exactly 0.
            centred = block - block[0]
            shift = centred.mean(axis=0)
            centred -= shift
            part = cls(len(block), block[0] + shift, centred.T @ centred)
            total = part if total is None else total + part
        assert total is not None
        return total

    def __add__(self, other: Moments) -> Moments:
        """Moments of the union of two disjoint sets."""
        n, apart = self.n + other.n, other.mean - self.mean
        between = np.outer(apart, apart * (self.n * other.n / n))
        return Moments(n, self.mean + apart * (other.n / n), self.scatter + other.scatter + between)

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance (ddof 1), (d, d), symmetric. Raises ValueError for fewer than two samples."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.n}")
        return (self.scatter + self.scatter.T) / (2 * (self.n - 1))


def without_each(x: np.ndarray, groups: Sequence[np.ndarray], rest: Moments | None = None) -> Iterator[Moments]:
    """Moments of (n, d) samples without each group in turn, in the order of ``groups``.

    Sums of what stays, never differences: the groups are halved, and each half is added to what the other half starts from. That looks at
    every sample ``log2 G`` times and holds as many moments.

    Args:
        x: (n, d) samples.
        groups: (n,) masks of disjoint groups, which together are all samples.
        rest: moments of samples that are never left out.
    """
    if len(groups) == 1:
        if rest is None:
            raise ValueError("nothing is left when the only group is left out")
        yield rest
        return
    halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    for left, kept in (halves, halves[::-1]):
        more = Moments.of(x[np.any(kept, axis=0)])
        yield from without_each(x, left, more if rest is None else rest + more)
