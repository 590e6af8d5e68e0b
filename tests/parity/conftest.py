"""Arrays that every peer gets: the same for all, so that the parity tables can be read across."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fmbench.metrics.frechet import between
from fmbench.statistics.moments import Moments

Pair = tuple[np.ndarray, np.ndarray]

SIZES = [(n, d) for n in (200, 2000) for d in (16, 64, 256)]
"""(n, d) of the feature metrics; n = 200 with d = 256 has singular covariances."""


def rectified(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """(n, d) features like a network's: a Gaussian of power-law spectrum in a fixed random basis, rectified."""
    basis = np.linalg.qr(np.random.default_rng(d).normal(size=(d, d)))[0]
    latent = np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5
    return np.maximum((latent + shift) @ basis + 0.2, 0.0)


@pytest.fixture(scope="session")
def feature_pair() -> Callable[..., Pair]:
    """``feature_pair(n, d)``: generated and real features, float64."""
    return lambda n, d: (rectified(n, d, 1), rectified(n, d, 2, 0.1))


@pytest.fixture(scope="session")
def clouds() -> Callable[..., Pair]:
    """``clouds(n, m, d)``: two overlapping point clouds of different shape for the transport metrics."""

    def draw(n: int, m: int, d: int) -> Pair:
        rng = np.random.default_rng(n + 7 * m + 31 * d)
        return rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + 0.5

    return draw


@pytest.fixture(scope="session")
def agreement() -> Callable[[float, Pair], float]:
    """``agreement(theirs, pair)``: relative difference of a peer's Frechet distance to ours."""

    def difference(theirs: float, pair: Pair) -> float:
        ours = between(*map(Moments.of, pair))
        return (theirs - ours) / ours

    return difference


@pytest.fixture(scope="session")
def covariances() -> Callable[[Pair], tuple[np.ndarray, ...]]:
    """``covariances(pair)``: ``mu1, cov1, mu2, cov2`` as NumPy makes them, with divisor n - 1."""
    return lambda pair: tuple(a for x in pair for a in (x.mean(axis=0), np.cov(x, rowvar=False)))
