"""MeanFlow: Geng, Deng, Bai, Kolter, He, NeurIPS 2025, 2505.13447."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.methods.average_velocity import AverageVelocityMethod, derivative, require_share
from fmbench.methods.base import Batch, keyed_dropout
from fmbench.methods.times import TimeLaw, adaptive
from fmbench.shapes import Condition, Points, Times, like, squared_norm


class MeanFlow(AverageVelocityMethod):
    """The average velocity ``u(x_r, r, t) = 1 / (t - r) int_r^t v`` from its own derivative, for samples in one jump or a few.

    Differentiating ``(t - r) u = int_r^t v`` along the path gives the MeanFlow identity ``u = v + (t - r) du/dr``, whose total derivative
    is a Jacobian-vector product with the tangent (v, 1, 0) in (x, r, t). With the conditional velocity ``v = x1 - x0`` the loss is

        E w |u(x_r, r, t) - sg(v + (t - r) du/dr)|^2,    w = sg(1 / (|..|^2 + floor)^power)

    (the paper runs time from data to noise: its t is ``1 - r`` and its r is ``1 - t``, which turns the sign of the derivative). For t = r it
    is flow matching.

    Pitfalls: the whole target is without gradient; another tangent, such as (v, 0, 0), learns no map at all. ``power`` of 1 or 0.75 is right
    for images only (:func:`~fmbench.methods.times.adaptive`). A step costs about 2.2 times one of ``cfm`` on the rows with t != r.
    Guidance inside the training target is left out.

    Args:
        net: network of two times.
        apart: share of samples with t != r; the paper takes 0.25 on ImageNet and 0.75 on CIFAR-10.
        times: law of both times, ``uniform`` or ``logit-normal``.
        time_mean, time_std: parameters of the logit-normal law; 0.4 and 1 are the paper's -0.4 and 1 with time turned round.
        power, floor: of the adaptive weights.
    """

    summary = "average velocity between two times, from its derivative along the path (JVP)"
    reference = "arXiv:2505.13447"
    objective = (
        "E w |u(x_r, r, t) - sg(v + (t - r) du/dr)|^2, du/dr = JVP of u along (v, 1, 0) in (x, r, t), v = x1 - x0"
    )

    def __init__(
        self,
        net: nn.Module,
        apart: float = 0.25,
        times: str = "logit-normal",
        time_mean: float = 0.4,
        time_std: float = 1.0,
        power: float = 1.0,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(net)
        require_share(apart=apart)
        if not (power >= 0 and floor > 0):
            raise ValueError(f"[method] power must be at least 0 and floor positive, got {power} and {floor}")
        self.apart, self.law, self.power, self.floor = apart, TimeLaw(times, time_mean, time_std), power, floor

    def direction(self, x: Points, r: Times, v: Points, cond: Condition | None) -> Points:
        """The velocity along which ``x`` is differentiated: the conditional one."""
        return v

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See the class; divided by the number of dimensions. The derivative is taken where t != r only: elsewhere nothing comes of it."""
        r, t = self.two_times(batch, generator)
        x_r, v = self.path.draw(batch.x0, batch.x1, r, generator)
        error = torch.cat(
            [self.error(x_r[k], r[k], t[k], v[k], self.known(batch, k), generator) for k in self.halves(batch)]
        )
        return (adaptive(error, self.power, self.floor) * error).mean() / v[0].numel()

    def halves(self, batch: Batch) -> list[slice]:
        """The rows with t != r and those with t = r, where there are any."""
        count, every = self.mapped(batch), len(batch.x0)
        return [rows for rows in (slice(0, count), slice(count, every)) if rows.start < rows.stop]

    def error(
        self, x: Points, r: Times, t: Times, v: Points, cond: Condition | None, generator: torch.Generator
    ) -> Tensor:
        """Squared error of the identity, (batch,)."""
        if torch.equal(r, t):
            with keyed_dropout(self.net, x.device, generator):
                return squared_norm(self.average(x, r, t, cond) - v)
        along = self.direction(x, r, v, cond)
        with keyed_dropout(self.net, x.device, generator):
            u, change = derivative(lambda x, r: self.average(x, r, t, cond), (x, r), (along, torch.ones_like(r)))
        return squared_norm(u - (v + like(t - r, v) * change).detach())
