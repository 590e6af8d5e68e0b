"""Error of a velocity field against the exact one where that is known, along the exact flow's own trajectories.

    error  = E int_0^1 |v(Z_t, t) - v*(Z_t, t)|^2 dt,   Z_t the trajectories of v*
    energy = E int_0^1 |v*(Z_t, t)|^2 dt                 (the path energy of v*)

Z_t has the law of ``(1-t) X0 + t X1`` at every t, so the error is the excess of the CFM loss over its minimum (the crossing, see
:mod:`fmbench.metrics.crossing`), and its relative form, error / energy, is the share of the motion that was not learnt: 0 for the exact
field, 1 for the zero field. Squares are summed over dimensions, the unit of both is length^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fmbench.metrics.evidence import Evidence
from fmbench.metrics.nodes import reference_nodes
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Velocity, squared_norm
from fmbench.statistics.intervals import jackknife_estimate, mean_estimate


@dataclass(frozen=True)
class VelocityErrors:
    """Per trajectory of the exact flow, both (n,) float64 in length^2: integrated squared ``error`` and ``energy`` of the exact field."""

    error: np.ndarray
    energy: np.ndarray
    steps: int


@torch.no_grad()
def velocity_errors(velocity: Velocity, oracle: Velocity, x0: Points, steps: int) -> VelocityErrors:
    """Compare two fields at the nodes of the RK4 reference solve of ``oracle`` from ``x0`` (n, *shape), its quadrature over time.

    Raises ValueError for an odd number of steps.
    """
    error = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    energy = torch.zeros_like(error)
    for node in reference_nodes(oracle, x0, steps):
        exact = node.v.double()
        error += node.weight * squared_norm(velocity(node.x, node.times).double() - exact)
        energy += node.weight * squared_norm(exact)
    return VelocityErrors(error.cpu().numpy(), energy.cpu().numpy(), steps)


def velocity_error(errors: VelocityErrors) -> Estimate:
    """Mean error, length^2, normal interval over trajectories."""
    return mean_estimate(errors.error, NON_NEGATIVE, solver="rk4", steps=errors.steps)


def relative_velocity_error(errors: VelocityErrors) -> Estimate:
    """Mean error over mean energy, a pure number, delete-a-group jackknife interval; missing when the exact field does not move."""
    if not errors.energy.any():
        return Estimate.missing("the exact velocity is zero everywhere, so there is nothing to divide by")
    ratio = lambda rows: float(errors.error[rows].mean() / errors.energy[rows].mean())  # noqa: E731
    return jackknife_estimate(ratio, len(errors.error), bounds=NON_NEGATIVE, solver="rk4", steps=errors.steps)


def _measure(evidence: Evidence, estimate: Callable[[VelocityErrors], Estimate]) -> Estimate:
    errors = evidence.once(
        "velocity errors", lambda: velocity_errors(evidence.velocity, evidence.oracle, evidence.x0, evidence.steps)
    )
    return estimate(errors)


def measure(evidence: Evidence) -> Estimate:
    """Velocity error against the exact field of independent pairs; models that couple otherwise aim at another field."""
    return _measure(evidence, velocity_error)


def measure_relative(evidence: Evidence) -> Estimate:
    """The same, relative to the energy of the exact field."""
    return _measure(evidence, relative_velocity_error)
