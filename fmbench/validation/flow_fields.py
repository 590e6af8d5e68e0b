"""Velocity fields whose trajectories are known in closed form.

The curved one is the marginal flow from N(0, I) to N(0, s^2 I) under independent pairs: ``Z_t = sigma_t Z0`` with
``sigma_t^2 = q(t) = (1-t)^2 + s^2 t^2``. Per dimension and for ``E Z0^2 = 1``

    PE = int sigma'^2 = 1 + s^2 - pi s / 2      cost = W2^2 = (1 - s)^2      S = PE - cost = (2 - pi / 2) s
    crossing V = E|X1 - X0|^2 - cost - S = pi s / 2                         curvature = int sigma''^2 = int s^4 / q^3
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fmbench.shapes import Velocity, like

POINTS = 48


def start(dim: int) -> Tensor:
    """Source points (48, dim) float64 of mean 0 and mean square 1: all that the isotropic fields here see of N(0, I)."""
    x = np.random.default_rng(dim).standard_normal((POINTS, dim))
    x -= x.mean(axis=0)
    return torch.from_numpy(x / np.sqrt((x**2).mean()))


def offset(dim: int) -> Tensor:
    """The shift of the translations, (dim,) float64."""
    return torch.linspace(-1, 1, dim, dtype=torch.float64)


def gaussian_rate(s: float, t: Tensor) -> Tensor:
    """``sigma'_t / sigma_t`` of the flow N(0, I) -> N(0, s^2 I), in which ``v = rate x``."""
    return (t * s**2 - (1 - t)) / ((1 - t) ** 2 + (t * s) ** 2)


def gaussian_flow(s: float) -> Velocity:
    """Marginal velocity from N(0, I) to N(0, s^2 I) under independent pairs."""
    return lambda x, t: like(gaussian_rate(s, t), x) * x


def straight_flow(s: float) -> Velocity:
    """The straight flow ``Z_t = (1 - t + s t) Z0``: constant speed, and optimal transport from N(0, I) to N(0, s^2 I)."""
    return lambda x, t: (s - 1) * x / like(1 - t + s * t, x)


def translation(offset: Tensor) -> Velocity:
    """``v = offset``, (*shape,), everywhere."""
    return lambda x, t: offset.expand_as(x)


def linear_field(matrix: Tensor) -> Velocity:
    """``v = M x`` for points (n, D), constant in time."""
    return lambda x, t: x @ matrix.T


def energy(s: float) -> float:
    """Path energy of :func:`gaussian_flow` per dimension."""
    return 1 + s**2 - math.pi * s / 2


def straightness(s: float) -> float:
    """Straightness S of :func:`gaussian_flow` per dimension."""
    return (2 - math.pi / 2) * s


def crossing(s: float) -> float:
    """Crossing V of independent pairs N(0, I), N(0, s^2 I) per dimension."""
    return math.pi * s / 2


def curvature(s: float) -> float:
    """``int s^4 / q^3 dt``, the mean squared acceleration of :func:`gaussian_flow` per dimension.

    With ``u = (1 + s^2) t - 1`` the integrand is ``s^4 (1 + s^2)^2 / (u^2 + s^2)^3 du``.
    """

    def primitive(u: float) -> float:
        r = u**2 + s**2
        return u / (4 * s**2 * r**2) + 3 * u / (8 * s**4 * r) + 3 * math.atan(u / s) / (8 * s**5)

    return s**4 * (1 + s**2) ** 2 * (primitive(s**2) - primitive(-1.0))


def entropy(s: float, dim: int) -> float:
    """Differential entropy of N(0, s^2 I) in nats: the negative log-likelihood of points with mean square ``s^2``."""
    return 0.5 * dim * (1 + math.log(2 * math.pi * s**2))


def _quadrature(integrand: Callable[[float], float]) -> float:
    """Integral over [0, 1] to about 1e-12."""
    from scipy.integrate import quad

    return float(quad(integrand, 0, 1, epsabs=1e-13, epsrel=1e-12)[0])


def noise_variance(s: float) -> float:
    """Variance over time of the noise prediction ``x - t v = (1 - t) / sigma_t Z0`` of :func:`gaussian_flow`, per dimension."""

    def share(t: float) -> float:
        return (1 - t) / math.hypot(1 - t, s * t)

    return _quadrature(lambda t: share(t) ** 2) - _quadrature(share) ** 2


def own_crossing(s: float) -> float:
    """``int (s - 1 - rate(t) (1 - t + s t))^2 dt``: the velocity of :func:`gaussian_flow` on the chords of its own trajectories."""

    def deviation(t: float) -> float:
        return s - 1 - (t * s**2 - (1 - t)) / ((1 - t) ** 2 + (s * t) ** 2) * (1 - t + s * t)

    return _quadrature(lambda t: deviation(t) ** 2)
