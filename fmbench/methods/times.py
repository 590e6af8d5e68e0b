"""Laws of the training times, and weights of the loss at a time: the options by which flow-matching objectives differ without another method.

A law of density ``p(t)`` and weights ``w(t)`` minimise the integral of ``p(t) w(t) E|v(x_t, t) - u|^2``. Only the product counts for what is
learned by a network without limits, which learns the same for all; it decides what a small one spends its capacity on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fmbench.shapes import Times

LAWS = ("uniform", "logit-normal")
WEIGHTINGS = ("velocity", "data", "noise", "min-snr")
MOST_SNR = 5.0
"""Signal-to-noise ratio at which ``min-snr`` stops growing (the gamma of 2303.09556)."""


def one_of(parameter: str, value: str, allowed: tuple[str, ...]) -> str:
    """The value. Raises ValueError, naming the parameter of the method, when it is not allowed."""
    if value not in allowed:
        raise ValueError(f"[method] {parameter} must be one of {', '.join(allowed)}, got {value!r}")
    return value


@dataclass(frozen=True)
class TimeLaw:
    """How times are drawn, ``uniform`` on [0, 1] or ``logit-normal``: ``log(t / (1 - t)) ~ N(mean, std^2)`` (2403.03206, section 3.1).

    t = 1 is the data, so a positive mean draws times near the data. Raises ValueError for another name and for a ``std`` that is not positive.
    """

    name: str = "uniform"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        one_of("times", self.name, LAWS)
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"[method] time_mean must be finite and time_std positive, got {self.mean} and {self.std}")

    def draw(self, count: int, generator: torch.Generator) -> Times:
        """Times, (count,), drawn on the CPU."""
        if self.name == "uniform":
            return torch.rand(count, generator=generator)
        return (self.mean + self.std * torch.randn(count, generator=generator)).sigmoid()

    def density(self, t: Times) -> Tensor:
        """The density at times inside (0, 1), (count,)."""
        if self.name == "uniform":
            return torch.ones_like(t)
        score = (t.logit() - self.mean) / self.std
        return (-score.square() / 2).exp() / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))


def weights_at(t: Times, weighting: str) -> Tensor | None:
    """Weights of the squared error of the velocity at times, (batch,); None for equal ones.

    On ``x_t = (1-t) x0 + t x1`` a velocity predicts the data point ``x_t + (1-t) v`` and the noise ``x_t - t v`` too: ``data`` and ``noise``
    weigh the errors of these equally at all times, ``min-snr`` that of the data by ``min(SNR, 5)`` with ``SNR = t^2 / (1-t)^2``
    (2303.09556).
    """
    if weighting == "velocity":
        return None
    if weighting == "min-snr":
        return torch.minimum(t.square(), MOST_SNR * (1 - t).square())
    return (1 - t).square() if weighting == "data" else t.square()


def adaptive(error: Tensor, power: float, floor: float) -> Tensor:
    """Weights ``1 / (error + floor)^power`` of squared errors, (batch,), without gradient (2505.13447, section 4.3).

    A power of 0 weighs all alike. With 1 the gradient is that of ``log(error + floor)``, which no longer has the mean as its minimiser
    unless errors hardly vary, as in many dimensions: in two it pulls the velocity towards the likeliest target.
    """
    return (error.detach() + floor) ** -power
