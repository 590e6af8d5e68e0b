"""The nodes of the shared reference solve one by one, for metrics that need the state and not only an integral over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fmbench.metrics.flow import reference_grid
from fmbench.shapes import Points, Velocity
from fmbench.solvers.rk4 import RK4


@dataclass(frozen=True)
class Node:
    """One time of a trajectory: ``t``, its quadrature ``weight``, the states ``x`` and the velocities ``v = v(x, t)``, both (n, *shape)."""

    t: float
    weight: float
    x: Points
    v: Points

    @property
    def times(self) -> torch.Tensor:
        """``t`` once per sample, (n,), in the dtype of the states."""
        return torch.full((len(self.x),), self.t, dtype=self.x.dtype, device=self.x.device)


def reference_nodes(velocity: Velocity, x0: Points, steps: int) -> Iterator[Node]:
    """The ``steps + 1`` nodes from t = 0 to t = 1 of the RK4 solve that starts in ``x0``; their weights integrate over [0, 1].

    Raises ValueError for an odd number of steps.
    """
    grid, weights = reference_grid(steps)
    x = x0
    for k in range(steps):
        seen: list[tuple[float, Points, Points]] = []
        after = RK4().solve(velocity, x, grid[k : k + 2], visit=lambda *state, seen=seen: seen.append(state))
        yield Node(seen[0][0], float(weights[k]), *seen[0][1:])
        x = after
    end = torch.ones(len(x), dtype=x.dtype, device=x.device)
    yield Node(1.0, float(weights[-1]), x, velocity(x, end))
