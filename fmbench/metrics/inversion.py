"""Round-trip error: how well a solver finds the way back from a sample to its own noise."""

from __future__ import annotations

import math

import numpy as np
import torch

from fmbench.metrics.evidence import Evidence
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Velocity, squared_norm
from fmbench.solvers.base import Solver, uniform_grid
from fmbench.solvers.rk4 import RK4
from fmbench.statistics.intervals import enclosing, mean_estimate


@torch.no_grad()
def round_trip_squared_errors(velocity: Velocity, x0: Points, steps: int, solver: Solver | None = None) -> np.ndarray:
    """``|Z0' - Z0|^2 / D`` per sample, (n,) float64, length^2: forward on the uniform grid, then back on the same grid reversed.

    An exact solver returns 0 on any field. With an explicit Runge-Kutta method of order p the root falls with the number of steps at
    order p for odd p and p + 1 for even p, because the leading errors of the two ways then cancel (Hairer, Lubich, Wanner, II.3).

    Args:
        velocity: v(x, t).
        x0: (n, *shape) source points.
        steps: steps each way.
        solver: any fixed-grid solver, RK4 by default.
    """
    solver = solver or RK4()
    grid = uniform_grid(steps)
    back = solver.solve(velocity, solver.solve(velocity, x0, grid), grid.flip(0))
    return (squared_norm(back.double() - x0.double()) / x0[0].numel()).cpu().numpy()


def round_trip_error(velocity: Velocity, x0: Points, steps: int, solver: Solver | None = None) -> Estimate:
    """``sqrt(E|Z0' - Z0|^2 / D)``, a length per dimension, with its 95 % interval by the delta method.

    Arguments as :func:`round_trip_squared_errors`; details hold solver and steps. NaN when the field sends samples to infinity.
    """
    chosen = solver or RK4()
    mean = mean_estimate(round_trip_squared_errors(velocity, x0, steps, chosen), solver=chosen.name, steps=steps)
    assert mean.value is not None
    root = math.sqrt(mean.value)
    if mean.ci is None or root == 0:
        return Estimate(root, None, mean.n, details=mean.details)
    half = (mean.ci[1] - mean.value) / (2 * root)
    return Estimate(root, enclosing(root, root - half, root + half, NON_NEGATIVE), mean.n, details=mean.details)


def measure(evidence: Evidence) -> Estimate:
    """Round-trip error of the probed trajectories with RK4."""
    return round_trip_error(evidence.velocity, evidence.x0, evidence.steps)
