"""The sampler name ``inverse``: one pass of a bijection from its source to the data."""

from __future__ import annotations

from torch import Tensor

from fmbench.shapes import Points, Velocity
from fmbench.solvers.base import Solver


class Inverse(Solver):
    """What a bijection is sampled with: it takes no steps and integrates nothing."""

    name = "inverse"
    order = 0
    stepless = True

    def solve(self, velocity: Velocity, x: Points, grid: Tensor) -> Points:
        """Raises ValueError: a velocity is integrated by another solver."""
        raise ValueError("inverse samples a bijection; a velocity needs a solver such as euler")
