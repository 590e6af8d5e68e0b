"""First-orderness: whether the noise a flow predicts stays the same along its trajectories (2410.07303).

On an affine path ``x_t = a_t x1 + m_t eps`` the velocity stands for a noise prediction ``E_t``; for the linear path ``E_t = x_t - t v``.
If E_t is constant along a trajectory, one first-order (DDIM) step in this parametrisation is exact, whether the trajectory is a straight
line or not. The paper states the property; the figure here, like a variance over time uniform on [0, 1], is

    per trajectory:  (1/D) int_0^1 |E_t - int E_s ds|^2 dt
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fmbench.metrics.evidence import Evidence
from fmbench.metrics.nodes import reference_nodes
from fmbench.paths.path import Schedule, convert, linear_schedule
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Velocity, squared_norm
from fmbench.statistics.intervals import mean_estimate


@torch.no_grad()
def noise_variance(
    velocity: Velocity, x0: Points, steps: int, schedule: Callable[[Tensor], Schedule] = linear_schedule
) -> np.ndarray:
    """Variance of the noise prediction along each trajectory, mean over dimensions, (n,) float64, length^2.

    For a standard normal source E_t has the scale of the noise, so 1 is large; it is 0 when every trajectory is first order, for the
    linear schedule when it is a straight line at constant speed.

    Args:
        velocity: v(x, t).
        x0: (n, *shape) source points.
        steps: steps of the RK4 reference solve, even.
        schedule: the affine path the noise is defined by.

    Raises ValueError for an odd number of steps.
    """
    total = torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
    square = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    shift: Tensor | None = None
    for node in reference_nodes(velocity, x0, steps):
        at = schedule(torch.tensor(node.t, dtype=torch.float64, device=x0.device))
        noise = convert(node.x.double(), at, velocity=node.v.double()).noise
        # Deviations from the first prediction: a variance by E[x^2] - E[x]^2 loses no digits around its own start.
        shift = noise if shift is None else shift
        total = total + node.weight * (noise - shift)
        square = square + node.weight * squared_norm(noise - shift)
    return ((square - squared_norm(total)) / x0[0].numel()).clamp_min(0).cpu().numpy()


def first_orderness(
    velocity: Velocity, x0: Points, steps: int, schedule: Callable[[Tensor], Schedule] = linear_schedule
) -> Estimate:
    """Mean of :func:`noise_variance` over trajectories with its 95 % interval; same arguments."""
    return mean_estimate(noise_variance(velocity, x0, steps, schedule), NON_NEGATIVE, solver="rk4", steps=steps)


def measure(evidence: Evidence) -> Estimate:
    """First-orderness of the probed trajectories, for the linear schedule."""
    return first_orderness(evidence.velocity, evidence.x0, evidence.steps)
