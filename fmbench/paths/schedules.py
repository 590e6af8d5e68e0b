"""Noise schedules: the Gaussian paths x = a x1 + m eps that diffusion and flow models of other libraries are trained on.

Every schedule has a clock of its own. What all of them share is the ratio a / m of data to noise, here by its logarithm ``lam``, half the
log-SNR: two schedules with the same ratio differ by a factor of x alone, so that a model of any schedule is a velocity field on the linear path
x_t = t x1 + (1 - t) eps (:mod:`fmbench.paths.conversions`). Formulas: 2011.13456 (vp, ve), 2206.00364 (edm), 2006.11239 (ddpm).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CLEAN = 1e-4
"""Share of noise, or of data, up to which the ends of a path are followed where a schedule itself has no limit."""
_FARTHEST = math.log((1 - CLEAN) / CLEAN)


class Schedule(ABC):
    """A path x = a(s) x1 + m(s) eps on a clock s; all functions take and return float64 tensors.

    Attributes:
        clocks: names of the times that a network of this schedule may take; the first is s itself.
        span: lowest and highest ``lam = log(a / m)`` that it reaches.
    """

    clocks: tuple[str, ...] = ("data_at_1", "data_at_0")
    span: tuple[float, float] = (-_FARTHEST, _FARTHEST)

    @abstractmethod
    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """a(s) and m(s)."""

    @abstractmethod
    def rates(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """a'(s) and m'(s), by s."""

    @abstractmethod
    def at(self, lam: Tensor) -> Tensor:
        """The s where log(a / m) is ``lam``."""

    def start(self, s: Tensor) -> Tensor:
        """The deviation of the noise that samplers start from at ``s``: m(s), unless a library does otherwise."""
        return self.coefficients(s)[1]

    def shown(self, s: Tensor, clock: str) -> Tensor:
        """The time ``s`` as the clock of a network shows it. Raises ValueError for a clock that this schedule does not have."""
        self.require_clock(clock)
        return s if clock == self.clocks[0] else 1 - s

    def read(self, time: Tensor, clock: str) -> Tensor:
        """The inverse of :meth:`shown`."""
        self.require_clock(clock)
        return time if clock == self.clocks[0] else 1 - time

    def require_clock(self, clock: str) -> None:
        """Raise ValueError for a clock that this schedule does not have."""
        if clock not in self.clocks:
            raise ValueError(f"time must be one of {', '.join(self.clocks)} for this schedule, got {clock!r}")

    @property
    def reversed_by(self) -> tuple[str, ...]:
        """Clocks that run against s, so that a velocity by them has the other sign."""
        return self.clocks[1:2]


class Linear(Schedule):
    """a = s, m = 1 - s: flow matching, rectified flow."""

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        return s, 1 - s

    def rates(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        return torch.ones_like(s), -torch.ones_like(s)

    def at(self, lam: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return torch.sigmoid(lam)


class Trigonometric(Schedule):
    """a = sin(pi s / 2), m = cos(pi s / 2): the cosine schedule without offset, GVP, stochastic interpolants."""

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        return torch.sin(math.pi / 2 * s), torch.cos(math.pi / 2 * s)

    def rates(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        a, m = self.coefficients(s)
        return math.pi / 2 * m, -math.pi / 2 * a

    def at(self, lam: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return 2 / math.pi * torch.atan(lam.exp())


@dataclass(frozen=True)
class VP(Schedule):
    """a = exp(-B / 2), m^2 = 1 - a^2, B(s) = b0 s + (b1 - b0) s^2 / 2; noise at s = 1 (variance preserving, linear beta)."""

    beta: tuple[float, float] = (0.1, 20.0)
    clocks = ("data_at_0", "data_at_1")

    def _integral(self, s: Tensor) -> Tensor:
        low, high = self.beta
        return low * s + (high - low) * s**2 / 2

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        b = self._integral(s)
        return torch.exp(-b / 2), torch.sqrt(-torch.expm1(-b))

    def rates(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        a, m = self.coefficients(s)
        beta = self.beta[0] + (self.beta[1] - self.beta[0]) * s
        return -beta * a / 2, beta * a**2 / (2 * m)

    @property
    def span(self) -> tuple[float, float]:  # type: ignore[override]
        """From the noise at s = 1 on; towards the data as far as every schedule."""
        a, m = self.coefficients(torch.ones((), dtype=torch.float64))
        return float((a / m).log()), _FARTHEST

    def at(self, lam: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        low, high = self.beta
        b = torch.nn.functional.softplus(-2 * lam)
        return (-low + torch.sqrt(low**2 + 2 * (high - low) * b)) / (high - low)


@dataclass(frozen=True)
class VE(Schedule):
    """a = 1, m = s from ``least`` to ``most``: variance exploding, EDM. Times are the noise level, its logarithm over 4, or from 0 to 1."""

    least: float = 0.002
    most: float = 80.0
    clocks = ("sigma", "log_sigma_4", "data_at_0", "data_at_1")

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        return torch.ones_like(s), s

    def rates(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        return torch.zeros_like(s), torch.ones_like(s)

    @property
    def span(self) -> tuple[float, float]:  # type: ignore[override]
        """The logarithms of 1 / most and 1 / least."""
        return -math.log(self.most), -math.log(self.least)

    def at(self, lam: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        return (-lam).exp()

    def shown(self, s: Tensor, clock: str) -> Tensor:
        """See :class:`Schedule`."""
        self.require_clock(clock)
        if clock == "sigma":
            return s
        if clock == "log_sigma_4":
            return s.log() / 4
        share = (s / self.least).log() / math.log(self.most / self.least)
        return share if clock == "data_at_0" else 1 - share

    def read(self, time: Tensor, clock: str) -> Tensor:
        """See :class:`Schedule`."""
        self.require_clock(clock)
        if clock == "sigma":
            return time
        if clock == "log_sigma_4":
            return (4 * time).exp()
        share = time if clock == "data_at_0" else 1 - time
        return self.least * (self.most / self.least) ** share

    @property
    def reversed_by(self) -> tuple[str, ...]:
        """See :class:`Schedule`."""
        return ()


class DDPM(Schedule):
    """A table of ``alphas_cumprod``, (N,), falling: a_k^2 = alphas_cumprod[k], a^2 + m^2 = 1, at the indices k = 0, ..., N - 1.

    Between indices log(a / m) is interpolated linearly; the index -1 is the data themselves, where samplers end. Raises ValueError for a table
    that does not fall from below 1 to above 0.
    """

    clocks = ("index", "data_at_0")

    def __init__(self, alphas_cumprod: Sequence[float] | Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        fine = table.ndim == 1 and len(table) > 1 and bool((table.diff() < 0).all()) and table[-1] > 0 and table[0] < 1
        if not fine:
            raise ValueError(
                "alphas_cumprod must be a table of at least two numbers that fall, from below 1 to above 0"
            )
        self.table = (table / (1 - table)).log() / 2

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> DDPM:
        """The table of Ho et al.: betas equally spaced from ``first`` to ``last``."""
        return cls(torch.cumprod(1 - torch.linspace(first, last, steps, dtype=torch.float64), 0))

    @property
    def span(self) -> tuple[float, float]:  # type: ignore[override]
        """From the last index to the first."""
        return float(self.table[-1]), float(self.table[0])

    def _between(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """log(a / m) at a fractional index, and its rate there."""
        low = s.floor().clamp(0, len(self.table) - 2).long()
        slope = self.table[low + 1] - self.table[low]
        return self.table[low] + (s - low) * slope, slope

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        lam, _ = self._between(s)
        clean = s <= -1
        a, m = torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()
        return a.masked_fill(clean, 1.0), m.masked_fill(clean, 0.0)

    def rates(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Schedule`."""
        a, m = self.coefficients(s)
        _, slope = self._between(s)
        return a * m**2 * slope, -m * a**2 * slope

    def at(self, lam: Tensor) -> Tensor:
        """See :class:`Schedule`."""
        rising = self.table.flip(0)
        high = torch.searchsorted(rising, lam.contiguous()).clamp(1, len(rising) - 1)
        share = (lam - rising[high - 1]) / (rising[high] - rising[high - 1])
        return (len(rising) - 1) - (high - 1 + share)

    def start(self, s: Tensor) -> Tensor:
        """1: samplers on such tables start from unit noise at whatever index they start, also where the path is not all noise."""
        return torch.ones_like(s)

    def shown(self, s: Tensor, clock: str) -> Tensor:
        """See :class:`Schedule`."""
        self.require_clock(clock)
        return s if clock == "index" else s / (len(self.table) - 1)

    def read(self, time: Tensor, clock: str) -> Tensor:
        """See :class:`Schedule`."""
        self.require_clock(clock)
        return time if clock == "index" else time * (len(self.table) - 1)

    @property
    def reversed_by(self) -> tuple[str, ...]:
        """See :class:`Schedule`."""
        return ()


SCHEDULES = {"linear": Linear, "trig": Trigonometric, "vp": VP, "ve": VE, "edm": VE, "ddpm": DDPM.linear}
"""Schedules by name, with the usual constants; one with others is given as an object."""


def schedule_of(given: str | Schedule) -> Schedule:
    """The schedule of a name, or the one given. Raises ValueError for any other value."""
    if isinstance(given, Schedule):
        return given
    if given not in SCHEDULES:
        raise ValueError(
            f"schedule must be one of {', '.join(SCHEDULES)}, or an object of fmbench.paths.schedules, got {given!r}"
        )
    return SCHEDULES[given]()
