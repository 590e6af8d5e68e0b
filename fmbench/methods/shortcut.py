"""Shortcut models: Frans, Hafner, Levine, Abbeel, ICLR 2025, 2410.12557."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fmbench.methods.average_velocity import AverageVelocityMethod, per_dimension, require_share
from fmbench.methods.base import Batch
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points, Times, like


class Shortcut(AverageVelocityMethod):
    """The average velocity ``s(x, t, d) = u(x, t, t + d)`` over steps of d = 1, 1/2, 1/4, ..., each from two of half the length.

    On a share ``apart`` of the samples, with d a power of 1/2 and t a multiple of 2d, and flow matching at d = 0 on all others:

        E |s(x_t, t, 2d) - sg(s(x_t, t, d) + s(x', t + d, d)) / 2|^2,    x' = x_t + d s(x_t, t, d)

    The shortest step, 1 / ``finest``, counts as d = 0, so that the velocity is what all steps are made of.

    Pitfalls: only steps that are powers of 1/2 are trained, so that a sampler has 1, 2, 4, ... steps. Errors of short steps are handed on to
    longer ones. The published code takes targets from the moving average of the weights; here they are those of the step.

    Args:
        net: network of two times.
        apart: share of self-consistency samples: a quarter in the paper.
        finest: number of shortest steps between 0 and 1, a power of 2; 128 in the paper.
    """

    summary = "average velocity over steps of 1, 1/2, 1/4, ..., each from two of half the length"
    reference = "arXiv:2410.12557"
    objective = (
        "E |s(x_t, t, 2d) - sg(s(x_t, t, d) + s(x_t + d s(x_t, t, d), t + d, d)) / 2|^2; at d = 0 E |s - (x1 - x0)|^2"
    )

    def __init__(self, net: nn.Module, apart: float = 0.25, finest: int = 128) -> None:
        super().__init__(net)
        require_share(apart=apart)
        if finest < 2 or finest & (finest - 1):
            raise ValueError(f"[method] finest must be a power of 2 from 2 on, got {finest}")
        self.apart, self.finest = apart, finest

    def accepts(self, sampler: Sampler) -> str | None:
        """A reason for steps that are not trained, and those of every average velocity."""
        if sampler.solver == "euler" and (sampler.grid or not sampler.steps or sampler.steps & (sampler.steps - 1)):
            return "this model jumps by powers of 1/2: it takes 1, 2, 4, 8, ... equal steps"
        return super().accepts(sampler)

    def average(self, x: Points, r: Times, t: Times, cond: Condition | None = None) -> Points:
        """u(x, r, t); over the shortest step, and less, it is the velocity."""
        return super().average(x, r, torch.where(t - r < 1.5 / self.finest, r, t), cond)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See the class; divided by the number of dimensions."""
        t, half = (times.to(batch.x0.device) for times in self.steps(batch, generator))
        x_t, v = self.path.draw(batch.x0, batch.x1, t, generator)
        if count := self.mapped(batch):
            rows = slice(count)
            v = torch.cat([self.of_two(x_t[rows], t[rows], half[rows], self.known(batch, rows)), v[count:]])
        return per_dimension(self.trained(x_t, t, t + 2 * half, batch, generator), v)

    @torch.no_grad()
    def of_two(self, x: Points, t: Times, d: Times, cond: Condition | None) -> Points:
        """The average over two steps of d."""
        first = self.average(x, t, t + d, cond)
        return (first + self.average(x + like(d, x) * first, t + d, t + 2 * d, cond)) / 2

    def steps(self, batch: Batch, generator: torch.Generator) -> tuple[Times, Times]:
        """Times t and half steps d, (batch,) each: t a multiple of 2d in the first rows, uniform with d = 0 in all others."""
        count = len(batch.x0)
        double = 0.5 ** torch.randint(int(math.log2(self.finest)), (count,), generator=generator)
        place, apart = torch.rand(count, generator=generator), torch.arange(count) < self.mapped(batch)
        t = torch.where(apart, (place / double).floor() * double, place)
        return t, torch.where(apart, double / 2, torch.zeros(count))
