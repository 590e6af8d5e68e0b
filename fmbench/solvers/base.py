"""The interface of a solver, and the stepping of explicit Runge-Kutta methods on a fixed grid (Hairer, Norsett, Wanner, II.1)."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from fmbench.execution.checked import checked_field
from fmbench.shapes import Points, Velocity

Visitor = Callable[[float, Points, Points], None]
"""Called at the start of every step with (t, x, v(x, t))."""


def uniform_grid(steps: int) -> Tensor:
    """``steps + 1`` equally spaced times from 0 to 1, float64. Raises ValueError for steps < 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def cosine_grid(steps: int) -> Tensor:
    """``(1 - cos(pi k / steps)) / 2`` for k = 0 to ``steps``: times that crowd at both ends, float64. Raises ValueError for steps < 1.

    Learnt fields change within a few thousandths there.
    """
    return (1 - (torch.pi * uniform_grid(steps)).cos()) / 2


def checked_grid(grid: Tensor) -> Tensor:
    """A monotone 1-D grid of at least two times in [0, 1], increasing (sampling) or decreasing (inversion)."""
    grid = torch.as_tensor(grid, dtype=torch.float64)
    times = grid.tolist() if grid.ndim == 1 else []
    # On numbers, not tensors: a grid belongs to the host, whatever device is sampled on.
    rising = [stop > start for start, stop in itertools.pairwise(times)]
    falling = [stop < start for start, stop in itertools.pairwise(times)]
    monotone = len(times) > 1 and (all(rising) or all(falling))
    if not monotone or not all(0 <= time <= 1 for time in times):
        raise ValueError(
            f"a time grid must be strictly monotone in [0, 1] with at least two points, got {grid.tolist()}"
        )
    return grid


class Solver(ABC):
    """Integrates ``dx/dt = v(x, t)`` along a grid of times.

    Attributes:
        name: in the registry.
        order: of convergence.
        adaptive: whether it chooses its steps.
        stochastic: whether it draws noise: :meth:`solve` then takes ``draws`` too.
        stepless: whether it is one pass, without steps.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    adaptive: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    stepless: ClassVar[bool] = False

    @abstractmethod
    def solve(self, velocity: Velocity, x: Points, grid: Tensor) -> Points:
        """State at ``grid[-1]`` when started from ``x`` at ``grid[0]``. Raises ValueError for a velocity that is not like ``x``."""


class RungeKutta(Solver):
    """An explicit Runge-Kutta method given by its Butcher tableau (``nodes``, ``matrix`` rows below the diagonal, ``weights``)."""

    nodes: ClassVar[tuple[float, ...]]
    matrix: ClassVar[tuple[tuple[float, ...], ...]]
    weights: ClassVar[tuple[float, ...]]

    def solve(self, velocity: Velocity, x: Points, grid: Tensor, visit: Visitor | None = None) -> Points:
        """See :meth:`Solver.solve`; ``visit`` sees the state and velocity at the start of every step."""
        times, velocity = checked_grid(grid).tolist(), checked_field(velocity)
        for start, stop in zip(times[:-1], times[1:], strict=True):
            step = stop - start
            slopes: list[Points] = []
            for node, row in zip(self.nodes, self.matrix, strict=True):
                point = x
                for coefficient, slope in zip(row, slopes, strict=True):
                    if coefficient:
                        point = point + (step * coefficient) * slope
                t = torch.full((len(x),), start + node * step, dtype=x.dtype, device=x.device)
                slopes.append(velocity(point, t))
            if visit is not None:
                visit(start, x, slopes[0])
            for weight, slope in zip(self.weights, slopes, strict=True):
                if weight:
                    x = x + (step * weight) * slope
        return x
