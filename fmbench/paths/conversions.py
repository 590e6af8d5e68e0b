"""What a network may predict on a Gaussian path, and how each of it becomes a velocity on the linear path (methods: 2011.13456, 2206.00364).

On x = a x1 + m eps the optimal predictors of data, D = E[x1 | x], and of noise, E = E[eps | x], satisfy x = a D + m E, so that one of them, the
score -E / m, the velocity a' D + m' E, or v = a E - m D gives all the others. On the linear path the velocity is D - E. A step of Euler there,

    x_t' = x_t + (t' - t) (D - E) = t' D + (1 - t') E,

is a step of DDIM on any schedule, and of Euler over the noise level in EDM: the usual deployed samplers are Euler on another grid of times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fmbench.paths.schedules import Linear, Schedule
from fmbench.shapes import Points, Times, like

PREDICTS = ("velocity", "noise", "data", "score", "v", "edm")
"""What a network may predict; ``edm`` is the data, by a denoiser that does its own scaling; ``v`` = a eps - m x1 where a^2 + m^2 = 1."""


def ends(
    prediction: Points, x: Points, a: Tensor, m: Tensor, predicts: str, rates: tuple[Tensor, Tensor] | None = None
) -> tuple[Points, Points]:
    """D and E, the predicted data and noise, of points ``x`` on a path, both shaped like ``x``.

    Args:
        prediction: of the network, at x.
        a, m: coefficients, broadcast against x.
        predicts: one of :data:`PREDICTS`.
        rates: a' and m' by the clock of a predicted velocity.

    Data are 1/a times what a noise or a score leaves of x: where a is small, so are the digits. Raises ValueError for any other word.
    """
    if predicts in ("data", "edm"):
        return prediction, (x - a * prediction) / m
    if predicts in ("noise", "score"):
        noise = prediction if predicts == "noise" else -m * prediction
        return (x - m * noise) / a, noise
    if predicts == "v":
        return a * x - m * prediction, m * x + a * prediction
    if predicts == "velocity" and rates is not None:
        da, dm = rates
        spin = a * dm - da * m
        return (dm * x - m * prediction) / spin, (a * prediction - da * x) / spin
    raise ValueError(f"predicts must be one of {', '.join(PREDICTS)}, got {predicts!r}")


def predicted(data: Points, noise: Points, a: Tensor, m: Tensor, predicts: str, rates: tuple[Tensor, Tensor]) -> Points:
    """The inverse of :func:`ends`: what a network would predict for given data and noise."""
    if predicts in ("data", "edm"):
        return data
    if predicts in ("noise", "score"):
        return noise if predicts == "noise" else -noise / m
    return a * noise - m * data if predicts == "v" else rates[0] * data + rates[1] * noise


def share_of_data(schedule: Schedule, s: Tensor) -> Tensor:
    """The time t = a / (a + m) of the linear path where the ratio of data to noise is that of a schedule at ``s``."""
    a, m = schedule.coefficients(s)
    return a / (a + m)


def linear_velocity(
    call: Callable[[Points, Tensor], Points],
    schedule: Schedule,
    predicts: str,
    clock: str,
    x: Points,
    t: Times,
    time_scale: float = 1.0,
) -> Points:
    """The velocity D - E on the linear path of a network ``call(x, time)`` of another path, at ``x`` (batch, *shape) and ``t`` (batch,).

    The network is asked at the same ratio of data to noise, with x scaled as it knows it. Beyond the noisiest or the cleanest level that it
    knows it is asked there. Coefficients are float64, ``x`` and the result keep their dtype; float64 loses nothing but the last digits.
    """
    sign = -1.0 if clock in schedule.reversed_by else 1.0
    wide = t.double()
    if predicts == "velocity" and isinstance(schedule, Linear):
        # Nothing to convert but the clock, up to both ends.
        return sign * call(x, (schedule.shown(wide, clock) * time_scale).to(x))
    low, high = schedule.span
    lam = (wide.log() - torch.log1p(-wide)).clamp(low, high)
    s = schedule.at(lam.cpu())
    a, m, da, dm = (like(c.to(x), x) for c in (*schedule.coefficients(s), *schedule.rates(s)))
    scaled = x * (a + m)
    out = call(scaled, (schedule.shown(s, clock) * time_scale).to(x))
    data, noise = ends(out, scaled, a, m, predicts, (sign * da, sign * dm))
    return data - noise
