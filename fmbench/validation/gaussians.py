"""Pairs of Gaussians with everything known, and sets of points whose sample moments are exact.

A pair is built from its optimal map: ``N(a, A)`` and its image under ``x -> b + M (x - a)`` with M symmetric positive definite. Such
a map is the gradient of a convex function, hence optimal (Brenier), so ``W2^2 = |b - a|^2 + tr (M - I) A (M - I)`` without a matrix
square root, although A and M do not commute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

DIMENSIONS = (2, 16, 64, 512)


def frame(dim: int, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal (dim, dim) matrix."""
    return np.linalg.qr(rng.standard_normal((dim, dim)))[0]


def whitened(n: int, dim: int, rng: np.random.Generator, ddof: int = 0) -> np.ndarray:
    """``n`` points (n, dim) whose sample mean is 0 and whose sample covariance (with ``ddof``) is I, both to rounding; n > dim."""
    z = rng.standard_normal((n, dim))
    z -= z.mean(axis=0)
    factor = np.linalg.cholesky(z.T @ z / (n - ddof))
    return np.linalg.solve(factor, z.T).T


@dataclass(frozen=True, eq=False)
class GaussianPair:
    """``N(mean_a, cov_a)`` and ``N(mean_b, map cov_a map)``; (d,) means, (d, d) matrices."""

    mean_a: np.ndarray
    cov_a: np.ndarray
    mean_b: np.ndarray
    map: np.ndarray

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.mean_a)

    @cached_property
    def factor(self) -> np.ndarray:
        """Cholesky factor of ``cov_a``, (d, d)."""
        return np.linalg.cholesky(self.cov_a)

    @property
    def cov_b(self) -> np.ndarray:
        """Covariance of the second Gaussian, (d, d)."""
        return self.map @ self.cov_a @ self.map

    @property
    def w2_squared(self) -> float:
        """Squared 2-Wasserstein distance, which is also the Frechet distance."""
        excess = self.map - np.eye(self.dim)
        return float(((self.mean_b - self.mean_a) ** 2).sum() + np.trace(excess @ self.cov_a @ excess))

    def first(self, standard: np.ndarray) -> np.ndarray:
        """Points of the first Gaussian from standard normal (or whitened) ones, (n, d)."""
        return self.mean_a + standard @ self.factor.T

    def move(self, x: np.ndarray) -> np.ndarray:
        """The optimal map of points (n, d)."""
        return self.mean_b + (x - self.mean_a) @ self.map

    def second(self, standard: np.ndarray) -> np.ndarray:
        """Points of the second Gaussian, (n, d)."""
        return self.move(self.first(standard))


@cache
def gaussian_pair(dim: int) -> GaussianPair:
    """A fixed pair with full covariances that do not commute, eigenvalues 0.3 to 2, and means sqrt(2) apart."""
    rng = np.random.default_rng(dim)
    first, second = frame(dim, rng), frame(dim, rng)
    cov = (first * np.geomspace(0.3, 2.0, dim)) @ first.T
    stretch = (second * np.geomspace(0.5, 1.6, dim)) @ second.T
    mean = np.full(dim, 1 / math.sqrt(dim))
    away = mean + frame(dim, rng)[0] * math.sqrt(2)
    return GaussianPair(mean, (cov + cov.T) / 2, away, (stretch + stretch.T) / 2)


def gaussian_kernel_mean(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray, h: float
) -> float:
    """``E exp(-|X - Y|^2 / (2 h^2))`` of independent Gaussians: a Gaussian integral over ``X - Y``."""
    total = cov_a + cov_b + h**2 * np.eye(len(mean_a))
    shift = mean_a - mean_b
    log_det = np.linalg.slogdet(total / h**2)[1]
    return math.exp(-0.5 * log_det - 0.5 * float(shift @ np.linalg.solve(total, shift)))


def cubic_kernel_mean(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """``E (X.Y / d + 1)^3`` of independent Gaussians, from their first three moment tensors contracted."""
    d, dot = len(mean_a), float(mean_a @ mean_b)
    across = float(mean_a @ cov_b @ mean_a + mean_b @ cov_a @ mean_b)
    overlap = float(np.vdot(cov_a, cov_b))
    second = dot**2 + across + overlap
    third = dot**3 + 3 * dot * (across + overlap) + 6 * float(mean_a @ cov_b @ cov_a @ mean_b)
    return 1 + 3 * dot / d + 3 * second / d**2 + third / d**3


def entropic_gaussian_cost(shift: float, std_a: float, std_b: float, epsilon: float) -> float:
    """OT_eps between N(0, std_a^2) and N(shift, std_b^2) in one dimension, Kullback-Leibler convention (Janati et al., 2006.02572)."""
    half = epsilon / 2
    root = math.sqrt(4 * (std_a * std_b) ** 2 + half**2)
    smoothing = half * (1 - math.log(2 * half) + math.log(root + half))
    return shift**2 + std_a**2 + std_b**2 - root + smoothing
