"""Conditional probability paths p_t(x | x0, x1) and the conversions between what a network may predict.

A path draws ``x_t`` and the regression target ``u_t``, the conditional velocity. Sources: Lipman et al. 2210.02747 (:class:`TargetPath`),
Tong et al. 2302.00482 (:class:`LinearPath`, :class:`BridgePath`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fmbench.shapes import Points, Times, like


class Path(ABC):
    """A conditional path. ``draw`` returns ``(x_t, u_t)``, both shaped like ``x0``."""

    @abstractmethod
    def draw(self, x0: Points, x1: Points, t: Times, generator: torch.Generator) -> tuple[Points, Points]:
        """Sample ``x_t ~ p_t(. | x0, x1)`` and return it with the conditional velocity ``u_t(x_t | x0, x1)``."""


def _noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise drawn on the CPU, so that a seed means the same on every device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def _checked_sigma(sigma: float, below: float = math.inf) -> float:
    if not 0 <= sigma < below:
        raise ValueError(f"sigma must be in [0, {below:g}), got {sigma}")
    return sigma


@dataclass(frozen=True)
class LinearPath(Path):
    """``x_t ~ N((1-t) x0 + t x1, sigma^2 I)``, ``u = x1 - x0`` (I-CFM, 2302.00482 eq. 14-15). sigma > 0 blurs both ends."""

    sigma: float = 0.0

    def __post_init__(self) -> None:
        _checked_sigma(self.sigma)

    def draw(self, x0: Points, x1: Points, t: Times, generator: torch.Generator) -> tuple[Points, Points]:
        """See :meth:`Path.draw`."""
        s = like(t, x0)
        x_t = (1 - s) * x0 + s * x1
        if self.sigma > 0:
            x_t = x_t + self.sigma * _noise_like(x_t, generator)
        return x_t, x1 - x0


@dataclass(frozen=True)
class TargetPath(Path):
    """``x_t ~ N(t x1, (1 - (1-sigma) t)^2 I)``, conditioned on the data end only (FM, 2210.02747 eq. 20-23).

    ``x0`` must be standard normal: it *is* the noise of the path. The published velocity
    ``(x1 - (1-sigma) x_t) / (1 - (1-sigma) t)`` equals ``x1 - (1-sigma) x0``, which has no singularity at t = 1.
    """

    sigma: float = 0.0

    def __post_init__(self) -> None:
        _checked_sigma(self.sigma, below=1.0)

    def draw(self, x0: Points, x1: Points, t: Times, generator: torch.Generator) -> tuple[Points, Points]:
        """See :meth:`Path.draw`; ``generator`` is not used, the noise of this path is ``x0``."""
        s = like(t, x0)
        shrink = 1 - self.sigma
        return (1 - shrink * s) * x0 + s * x1, x1 - shrink * x0


@dataclass(frozen=True)
class BridgePath(Path):
    """Brownian bridge ``x_t ~ N((1-t) x0 + t x1, sigma^2 t (1-t) I)`` (SB-CFM, 2302.00482 eq. 21-22).

    ``u = (1-2t) / (2 t (1-t)) (x_t - mu_t) + x1 - x0``. Its variance diverges like 1/t at both ends, so ``t`` is clamped ``margin``
    away from them.
    """

    sigma: float = 1.0
    margin: float = 1e-3

    def __post_init__(self) -> None:
        _checked_sigma(self.sigma)

    def draw(self, x0: Points, x1: Points, t: Times, generator: torch.Generator) -> tuple[Points, Points]:
        """See :meth:`Path.draw`."""
        s = like(t.clamp(self.margin, 1 - self.margin), x0)
        scale = (s * (1 - s)).sqrt()
        noise = _noise_like(x0, generator)
        x_t = (1 - s) * x0 + s * x1 + self.sigma * scale * noise
        return x_t, (1 - 2 * s) / (2 * scale) * self.sigma * noise + x1 - x0


@dataclass(frozen=True)
class Schedule:
    """Coefficients of an affine Gaussian path ``x_t = a x1 + m eps`` and their time derivatives at one time, all floats or tensors."""

    a: Tensor
    m: Tensor
    da: Tensor
    dm: Tensor

    @property
    def wronskian(self) -> Tensor:
        """``a' m - a m'``, positive when the signal grows with time."""
        return self.da * self.m - self.a * self.dm


def linear_schedule(t: Tensor) -> Schedule:
    """Conditional optimal transport: ``a = t, m = 1 - t``."""
    return Schedule(t, 1 - t, torch.ones_like(t), -torch.ones_like(t))


def trigonometric_schedule(t: Tensor) -> Schedule:
    """Variance preserving: ``a = sin(pi t / 2), m = cos(pi t / 2)``."""
    angle = t * (math.pi / 2)
    return Schedule(angle.sin(), angle.cos(), angle.cos() * (math.pi / 2), -angle.sin() * (math.pi / 2))


@dataclass(frozen=True)
class Predictions:
    """The four equivalent things a network may predict at ``x_t``: E[x1|x_t], E[eps|x_t], the score and the velocity."""

    data: Tensor
    noise: Tensor
    score: Tensor
    velocity: Tensor


def convert(
    x: Points,
    schedule: Schedule,
    *,
    data: Points | None = None,
    noise: Points | None = None,
    score: Points | None = None,
    velocity: Points | None = None,
) -> Predictions:
    """Complete one prediction to all four (2303.08797; the algebra of ``x = a D + m E``, ``v = a' D + m' E``, ``s = -E/m``).

    Exactly one of the keywords must be given. Rows that divide by ``a`` or ``m`` explode where these vanish (t = 0, t = 1); the caller
    keeps ``t`` inside. Raises ValueError when not exactly one prediction is given.
    """
    given = [p for p in (data, noise, score, velocity) if p is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of data, noise, score, velocity; got {len(given)}")
    a, m, da, dm = schedule.a, schedule.m, schedule.da, schedule.dm
    if score is not None:
        noise = -m * score
    if velocity is not None:
        noise = (da * x - a * velocity) / schedule.wronskian
        data = (m * velocity - dm * x) / schedule.wronskian
    if data is None:
        assert noise is not None
        data = (x - m * noise) / a
    if noise is None:
        noise = (x - a * data) / m
    return Predictions(data, noise, -noise / m, da * data + dm * noise)
