"""Crossing: how much the straight lines between the pairs of a coupling run into each other (2209.03003, section 3).

    V = int_0^1 E|X1 - X0 - v(X_t, t)|^2 dt,   X_t = (1-t) X0 + t X1,   v(x, t) = E[X1 - X0 | X_t = x]

It is the part of the CFM loss that no velocity can remove ("degree of intersection" in 2301.12003); 0 exactly when the lines never
cross, and ``E|X1 - X0|^2 - E|Z1 - Z0|^2 = S(Z) + V`` for the flow Z of v. Given any other field instead of the marginal velocity, the same
integral is that field's CFM loss, V plus its velocity error.
"""

from __future__ import annotations

import numpy as np
import torch

from fmbench.metrics.evidence import Evidence
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Velocity, squared_norm
from fmbench.statistics.intervals import mean_estimate

NODES = 32


@torch.no_grad()
def pair_losses(velocity: Velocity, x0: Points, x1: Points, nodes: int = NODES) -> np.ndarray:
    """``int_0^1 |x1 - x0 - v(x_t, t)|^2 dt`` of every pair, (n,) float64, length^2, summed over dimensions.

    Gauss-Legendre in time: every pair is seen at the same ``nodes`` times, none of them an end, where some exact velocities are singular.

    Args:
        velocity: the marginal velocity of the coupling.
        x0, x1: (n, *shape) pairs drawn from the coupling, row by row.
        nodes: times.

    Raises ValueError for unpaired points or fewer than one node.
    """
    if x0.shape != x1.shape:
        raise ValueError(f"x0 and x1 must be pairs, got shapes {tuple(x0.shape)} and {tuple(x1.shape)}")
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, got {nodes}")
    points, weights = np.polynomial.legendre.leggauss(nodes)
    loss = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for t, weight in zip((points + 1) / 2, weights / 2, strict=True):
        times = torch.full((len(x0),), float(t), dtype=x0.dtype, device=x0.device)
        v = velocity(torch.lerp(x0, x1, float(t)), times)
        loss += float(weight) * squared_norm((x1 - x0 - v).double())
    return loss.cpu().numpy()


def crossing(velocity: Velocity, x0: Points, x1: Points, nodes: int = NODES) -> Estimate:
    """V by Monte Carlo over pairs with its normal 95 % interval; arguments and errors as :func:`pair_losses`."""
    return mean_estimate(pair_losses(velocity, x0, x1, nodes), NON_NEGATIVE, nodes=nodes)


def measure(evidence: Evidence) -> Estimate:
    """The integral for the model's own pairs (Z0, Z1) and its own velocity, from the reference solve: at least their V.

    0 exactly when every trajectory is its chord at constant speed and no two chords cross. It is the loss that reflow would start from.
    """
    x0 = evidence.x0
    return crossing(evidence.velocity, x0, evidence.trajectories.stop[: len(x0)].to(x0))
