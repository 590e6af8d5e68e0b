"""Adaptive Dormand-Prince 5(4), by torchdiffeq."""

from __future__ import annotations

import torch
from torch import Tensor

from fmbench.execution.checked import checked_field
from fmbench.shapes import Points, Velocity
from fmbench.solvers.base import Solver, checked_grid

MOST_STEPS = 1000
"""Attempted steps of one solve: entries of the zoo take fewer than a hundred, a stiff field would take for ever."""


class Dopri5(Solver):
    """Dormand and Prince 5(4) with the step size controlled to ``rtol`` and ``atol``.

    torchdiffeq takes the error norm over the whole batch, so steps and NFE depend on what is solved together: the harness
    always hands it one noise block (256 samples), whatever the batch size. Rejected steps count as evaluations, and as steps: after
    ``most_steps`` the solve is given up.
    """

    name = "dopri5"
    order = 5
    adaptive = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, most_steps: int = MOST_STEPS) -> None:
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"tolerances must be positive, got rtol={rtol}, atol={atol}")
        if not isinstance(most_steps, int) or isinstance(most_steps, bool) or most_steps < 1:
            raise ValueError(f"most_steps must be a whole number of at least 1, got {most_steps}")
        self.rtol, self.atol, self.most_steps = rtol, atol, most_steps

    def solve(self, velocity: Velocity, x: Points, grid: Tensor) -> Points:
        """See :meth:`Solver.solve`; only the ends of ``grid`` matter.

        Raises ValueError when the step size underflows, NaN appears, or ``most_steps`` are not enough.
        """
        from torchdiffeq import odeint

        grid, velocity = checked_grid(grid), checked_field(velocity)
        ends = torch.stack([grid[0], grid[-1]]).to(x)

        def field(t: Tensor, state: Tensor) -> Tensor:
            return velocity(state, t.to(state).expand(len(state)))

        limit = {"max_num_steps": self.most_steps}
        try:
            return odeint(field, x, ends, rtol=self.rtol, atol=self.atol, method="dopri5", options=limit)[-1]  # type: ignore[index]
        except AssertionError as error:  # how torchdiffeq says that it cannot go on
            if "max_num_steps" in str(error):
                error = f"{self.most_steps} steps (most_steps) were not enough"
            raise ValueError(f"dopri5 stopped: {error}; the velocity is NaN or too stiff for its tolerances") from None
