"""SplitMeanFlow: Guo et al., 2507.16884, interval splitting consistency."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.methods.average_velocity import AverageVelocityMethod, per_dimension, require_share
from fmbench.methods.base import Batch
from fmbench.methods.times import TimeLaw
from fmbench.shapes import Condition, Points, Times, like


class SplitMeanFlow(AverageVelocityMethod):
    """The average velocity from the additivity of the integral, without a derivative.

    A jump from r to t is two jumps over any s between them: ``(t - r) u(x_r, r, t) = (s - r) u(x_r, r, s) + (t - s) u(x_s, s, t)``. With
    ``s = r + l (t - r)``, l uniform, and ``x_s = x_r + (s - r) u(x_r, r, s)``, the loss on a share ``apart`` of the samples is

        E |u(x_r, r, t) - sg(l u(x_r, r, s) + (1 - l) u(x_s, s, t))|^2

    and flow matching (t = r, target ``x1 - x0``) on all others.

    Pitfalls: any additive map is consistent with itself, the zero map too, so that at least half of the samples should have t = r. What a
    short jump has not learned yet is handed on to longer ones: errors grow with the length of the jump. The paper trains from a teacher's
    velocity; here the pairs give it, without a teacher. Three evaluations in a step, one of them with a gradient.

    Args:
        net: network of two times.
        apart: share of samples with t != r.
        times: law of both times, ``uniform`` or ``logit-normal``.
        time_mean, time_std: parameters of the logit-normal law.
    """

    summary = "average velocity between two times, from splitting the interval (no JVP)"
    reference = "arXiv:2507.16884"
    objective = "E |u(x_r, r, t) - sg(l u(x_r, r, s) + (1 - l) u(x_s, s, t))|^2, s = r + l (t - r); at t = r E |u - (x1 - x0)|^2"

    def __init__(
        self,
        net: nn.Module,
        apart: float = 0.5,
        times: str = "uniform",
        time_mean: float = 0.0,
        time_std: float = 1.0,
    ) -> None:
        super().__init__(net)
        require_share(apart=apart)
        self.apart, self.law = apart, TimeLaw(times, time_mean, time_std)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See the class; divided by the number of dimensions."""
        r, t = self.two_times(batch, generator)
        part = torch.rand(len(r), generator=generator).to(r.device)
        x_r, v = self.path.draw(batch.x0, batch.x1, r, generator)
        if count := self.mapped(batch):
            rows = slice(count)
            v = torch.cat([self.of_two(x_r[rows], r[rows], t[rows], part[rows], self.known(batch, rows)), v[count:]])
        return per_dimension(self.trained(x_r, r, t, batch, generator), v)

    @torch.no_grad()
    def of_two(self, x: Points, r: Times, t: Times, part: Times, cond: Condition | None) -> Points:
        """The average over two jumps, the first of which is ``part`` of the way."""
        s = r + part * (t - r)
        first = self.average(x, r, s, cond)
        second = self.average(x + like(s - r, x) * first, s, t, cond)
        return like(part, x) * first + like(1 - part, x) * second
