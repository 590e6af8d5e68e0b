"""Euler and Maruyama's method for the stochastic process that has the marginals of a flow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fmbench.shapes import Points, Velocity
from fmbench.solvers.base import Solver, checked_grid

if TYPE_CHECKING:
    from fmbench.noise import Draws


class SDEEuler(Solver):
    """``dx = (v + w s) dt + sqrt(2 w) dW`` with ``w = diffusion (1 - t)`` and the score ``s = (t v - x) / (1 - t)``.

    The score is that of ``x_t = (1 - t) x0 + t x1`` with a standard normal source independent of the data (2303.08797, section 2), for which
    the marginals are those of the flow whatever the diffusion; the factor ``1 - t`` cancels its singularity at the data. Strong order 1/2,
    weak order 1, one evaluation per step.

    Args:
        diffusion: 0 or more; 0 is explicit Euler. Raises ValueError for anything else.
    """

    name = "sde-euler"
    order = 1
    stochastic = True

    def __init__(self, diffusion: float = 1.0) -> None:
        if not 0 <= diffusion < math.inf:
            raise ValueError(f"diffusion must be 0 or more and finite, got {diffusion}")
        self.diffusion = diffusion

    def solve(self, velocity: Velocity, x: Points, grid: Tensor, draws: Draws | None = None) -> Points:
        """See :meth:`Solver.solve`; the noise of step ``k`` is ``draws.normal(shape, k)``. Raises ValueError without draws."""
        if draws is None:
            raise ValueError("sde-euler draws noise; give the draws of the rows")
        times, shape = checked_grid(grid).tolist(), tuple(x.shape[1:])
        for k, (start, stop) in enumerate(zip(times[:-1], times[1:], strict=True)):
            step = stop - start
            t = torch.full((len(x),), start, dtype=x.dtype, device=x.device)
            v = velocity(x, t)
            drift = v + self.diffusion * (start * v - x)
            spread = math.sqrt(2 * self.diffusion * (1 - start) * step)
            x = x + step * drift + spread * draws.normal(shape, k).to(x)
        return x
