"""Spatial Lipschitz constant of a velocity field, estimated on its own trajectories.

The local constant at a point is the largest singular value of ``J = dv/dx``, found by power iteration on ``J^T J`` with two products per
round and no matrix. What is reported is a lower bound of the true constant: only visited points are
looked at, and power iteration approaches from below.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fmbench.metrics.evidence import Evidence
from fmbench.metrics.jacobian import Linearise, linearisation
from fmbench.metrics.nodes import reference_nodes
from fmbench.noise import generator as seeded
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Times, Velocity, like, squared_norm
from fmbench.statistics.intervals import mean_estimate

STREAM = 0x11B5
"""Key of the random starting vectors of :func:`measure`."""


def _unit(u: Tensor) -> Tensor:
    norm = squared_norm(u).sqrt()
    return u / like(torch.where(norm > 0, norm, torch.ones_like(norm)), u)


def largest_singular_value(
    velocity: Velocity, x: Points, t: Times, start: Tensor, iterations: int, linearise: Linearise | None = None
) -> tuple[Tensor, Tensor]:
    """Largest singular value of J at every row, (n,) float64 per unit time, and the right singular vectors (n, *shape).

    Args:
        velocity: v(x, t), rows of a batch independent.
        x, t: (n, *shape) and (n,).
        start: (n, *shape) first vectors, not orthogonal to the answer (random).
        iterations: rounds of power iteration; 0 gives |J u| of the normalised start.
        linearise: how products with J are found; found out when not given.

    Raises ValueError when gradients are switched off inside the velocity.
    """
    u = _unit(start)
    at = (linearise or linearisation(velocity, x, t, second=True))(velocity, x, t)
    for _ in range(iterations):
        image = at.push(u)
        pulled = at.pull(image)
        vanished = (squared_norm(pulled) == 0) & (squared_norm(image) > 1e-12)
        if bool(vanished.any()):
            raise ValueError(
                "the velocity has no gradient: it switches gradients off inside (torch.no_grad), remove that"
            )
        # A vanishing Jacobian has no direction to follow: keep the one we have.
        u = torch.where(like(squared_norm(pulled) > 0, u), _unit(pulled), u)
    return squared_norm(at.push(u).double()).sqrt(), u


@torch.no_grad()
def local_lipschitz(
    velocity: Velocity, x0: Points, steps: int, generator: torch.Generator, iterations: int = 10
) -> np.ndarray:
    """Largest singular value of dv/dx met along each trajectory, the maximum over its nodes, (n,) float64, per unit time.

    Every node starts from the singular vector of the node before plus a fresh random one of about its length, so that a field whose
    dominant direction changes over time is followed.

    Args:
        velocity: v(x, t), differentiable.
        x0: (n, *shape) source points.
        steps: steps of the RK4 reference solve, even.
        generator: draws the starting vectors on the CPU.
        iterations: rounds of power iteration at each node.

    Raises ValueError for an odd number of steps or a velocity without gradient.
    """
    highest = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    u, linearise = torch.zeros_like(x0), None
    for node in reference_nodes(velocity, x0, steps):
        fresh = torch.randn(x0.shape, generator=generator, dtype=torch.float64).to(x0)
        start = u + fresh / x0[0].numel() ** 0.5
        linearise = linearise or linearisation(velocity, node.x, node.times, second=True)
        sigma, u = largest_singular_value(velocity, node.x, node.times, start, iterations, linearise)
        highest = torch.maximum(highest, sigma)
    return highest.cpu().numpy()


def lipschitz(velocity: Velocity, x0: Points, steps: int, generator: torch.Generator, iterations: int = 10) -> Estimate:
    """Mean over trajectories of :func:`local_lipschitz` with its 95 % interval; the maximum over all of them stands in the details."""
    values = local_lipschitz(velocity, x0, steps, generator, iterations)
    return mean_estimate(
        values, NON_NEGATIVE, max=float(values.max()), solver="rk4", steps=steps, iterations=iterations
    )


def measure(evidence: Evidence) -> Estimate:
    """Lipschitz estimate on the probed trajectories."""
    return lipschitz(evidence.velocity, evidence.x0, evidence.steps, seeded(evidence.seed, STREAM))
