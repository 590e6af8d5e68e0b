"""Adaptive Dormand-Prince 5(4), by torchdiffeq."""

from __future__ import annotations

import torch
from torch import Tensor

from fmbench.shapes import Points, Velocity
from fmbench.solvers.base import Solver, checked_grid


class Dopri5(Solver):
    """Dormand and Prince 5(4) with the step size controlled to ``rtol`` and ``atol``.

    torchdiffeq takes the error norm over the whole batch, so steps and NFE depend on what is solved together: the harness
    always hands it one noise block (256 samples), whatever the batch size. Rejected steps count as evaluations.
    """

    name = "dopri5"
    order = 5
    adaptive = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"tolerances must be positive, got rtol={rtol}, atol={atol}")
        self.rtol, self.atol = rtol, atol

    def solve(self, velocity: Velocity, x: Points, grid: Tensor) -> Points:
        """See :meth:`Solver.solve`; only the ends of ``grid`` matter. Raises ValueError when the step size underflows or NaN appears."""
        from torchdiffeq import odeint

        grid = checked_grid(grid)
        ends = torch.stack([grid[0], grid[-1]]).to(x)

        def field(t: Tensor, state: Tensor) -> Tensor:
            return velocity(state, t.to(state).expand(len(state)))

        try:
            return odeint(field, x, ends, rtol=self.rtol, atol=self.atol, method="dopri5")[-1]  # type: ignore[index]
        except AssertionError as error:  # how torchdiffeq says that it cannot go on
            raise ValueError(f"dopri5 stopped: {error}; the velocity is NaN or too stiff for its tolerances") from None
