"""Metrics of the flow itself, all on one shared fine reference solve, never on a few-step sampler's own polyline.

The reference solve is RK4 on the nodes of a Clenshaw-Curtis rule (:func:`reference_grid`), which integrates over time. Per trajectory, with
D dimensions summed:

- path energy   PE = int |v(Z_t, t)|^2 dt                    (2302.00482, eq. 25)
- straightness  S  = int |(Z1 - Z0) - v(Z_t, t)|^2 dt         (2209.03003, eq. 6; 2301.12003 calls the same number curvature)
- cost             = |Z1 - Z0|^2
- curvature        = int |D v / D t|^2 dt, the acceleration along the trajectory, from differences of v between nodes: a lower bound, as
  the mean of a square is at least the square of the mean

Since int v dt = Z1 - Z0, PE = S + cost exactly; :attr:`Trajectories.residual` says how well the solve satisfies it. The intervals of PE, KE,
S and curvature also cover the nodes, by how far the same integral on every second of them is away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmbench import moved
from fmbench.metrics.evidence import Evidence
from fmbench.metrics.trajectories import Trajectories, concatenate  # noqa: F401 (what solves give, and how parts are joined)
from fmbench.records.ranges import AT_LEAST_MINUS_ONE, NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Velocity, squared_norm
from fmbench.solvers.base import cosine_grid, uniform_grid
from fmbench.solvers.rk4 import RK4
from fmbench.statistics.intervals import enclosing, mean_estimate, skewed_interval


def clenshaw_curtis(steps: int) -> tuple[Tensor, Tensor]:
    """Times and weights, ``steps + 1`` each, float64, that integrate polynomials of degree ``steps`` over [0, 1] exactly.

    The times are a :func:`~fmbench.solvers.base.cosine_grid`, and every second one of an even number of steps is the rule of half as many.
    """
    even = torch.arange(0, steps + 1, 2, dtype=torch.float64)
    # int_0^1 of the Chebyshev polynomial T_j is 1 / (1 - j^2) for even j; the first and the last term of a cosine sum count half.
    terms = torch.cos(torch.pi * uniform_grid(steps)[:, None] * even) / (1 - even.square())
    terms[:, 0] /= 2
    if steps % 2 == 0:
        terms[:, -1] /= 2
    weights = terms.sum(dim=1) * 2 / steps
    weights[0] /= 2
    weights[-1] /= 2
    return cosine_grid(steps), weights


def reference_grid(steps: int) -> tuple[Tensor, Tensor]:
    """The :func:`clenshaw_curtis` rule of a reference solve, dense at both ends, where the fields of image models change fastest.

    Raises ValueError for an odd number of steps, of which half is no rule to compare with.
    """
    if steps < 2 or steps % 2:
        raise ValueError(f"the reference solve needs an even number of steps, got {steps}")
    return clenshaw_curtis(steps)


def reference_solve(velocity: Velocity, x0: Points, steps: int) -> Trajectories:
    """Solve from t = 0 to t = 1 with RK4 and integrate along the way. ``x0`` is (n, *shape) on the device of the velocity."""
    grid, weights = reference_grid(steps)
    # The rule itself, and that of half as many steps on every second node: their difference tells the error.
    rules = torch.stack([weights, torch.zeros_like(weights)])
    rules[1, ::2] = clenshaw_curtis(steps // 2)[1]
    speed: list[Tensor] = []
    means = torch.zeros((2, *x0.shape), dtype=torch.float64, device=x0.device)
    bends = torch.zeros((2, len(x0)), dtype=torch.float64, device=x0.device)
    last: dict[int, tuple[float, Points]] = {}

    def visit(t: float, x: Points, v: Points) -> None:  # noqa: ARG001
        v, node = v.double(), len(speed)
        for mean, weight in zip(means, rules[:, node].tolist(), strict=True):
            if weight:
                mean.add_(v, alpha=weight)
        speed.append(squared_norm(v))
        for row, every in enumerate((1, 2)):
            if node % every == 0:
                if row in last:
                    before, v_before = last[row]
                    bends[row] += squared_norm(v - v_before) / (t - before)
                last[row] = t, v

    z1 = RK4().solve(velocity, x0, grid, visit=visit)
    visit(1.0, z1, velocity(z1, torch.ones(len(z1), dtype=z1.dtype, device=z1.device)))
    energy, coarse_energy = rules.to(x0.device) @ torch.stack(speed)
    curvature, coarse_curvature = bends
    chord = z1.double() - x0.double()
    cost = squared_norm(chord)
    # sum_k w_k |chord - v_k|^2, expanded so that no state of the trajectory has to be kept.
    straightness, coarse_straightness = (
        total - 2 * (chord * mean).flatten(1).sum(dim=1) + cost
        for total, mean in zip((energy, coarse_energy), means, strict=True)
    )
    # A field that is zero everywhere has no energy and no residual.
    residual = float(
        (energy - straightness - cost).abs().mean() / energy.mean().clamp_min(torch.finfo(torch.float64).tiny)
    )
    return Trajectories(
        start=x0.cpu(),
        stop=z1.cpu(),
        energy=energy.cpu().numpy(),
        straightness=straightness.clamp_min(0).cpu().numpy(),  # below zero is rounding
        coarse_energy=coarse_energy.cpu().numpy(),
        coarse_straightness=coarse_straightness.clamp_min(0).cpu().numpy(),
        curvature=curvature.cpu().numpy(),
        coarse_curvature=coarse_curvature.cpu().numpy(),
        cost=cost.cpu().numpy(),
        residual=residual,
        steps=steps,
    )


def _mean(evidence: Evidence, values: Callable[[Trajectories], np.ndarray]) -> Estimate:
    return mean_estimate(values(evidence.trajectories), NON_NEGATIVE, **evidence.solver_details)


def _integral(
    evidence: Evidence, fine: Callable[[Trajectories], np.ndarray], coarse: Callable[[Trajectories], np.ndarray]
) -> Estimate:
    """The mean of an integral over time, its interval widened by how far half the nodes are from all of them."""
    estimate, solve = _mean(evidence, fine), evidence.trajectories
    if estimate.ci is None:
        return estimate
    error = abs(float((fine(solve) - coarse(solve)).mean()))
    assert estimate.value is not None
    low, high = skewed_interval(fine(solve))
    widened = enclosing(estimate.value, low - error, high + error, NON_NEGATIVE)
    more = {"quadrature_error": error, "resolution": solve.resolution}
    return replace(estimate, ci=widened, details={**estimate.details, **more})


def straightness(evidence: Evidence) -> Estimate:
    """S, length^2; 0 exactly for constant-speed straight lines."""
    return _integral(evidence, lambda z: z.straightness, lambda z: z.coarse_straightness)


def path_energy(evidence: Evidence) -> Estimate:
    """PE, length^2; at least the transport cost."""
    return _integral(evidence, lambda z: z.energy, lambda z: z.coarse_energy)


def kinetic_energy(evidence: Evidence) -> Estimate:
    """KE = PE / 2, the action of the Benamou-Brenier problem, length^2; its minimum over all flows is W2^2 / 2."""
    return _integral(evidence, lambda z: z.energy / 2, lambda z: z.coarse_energy / 2)


def curvature(evidence: Evidence) -> Estimate:
    """Mean squared acceleration integrated over time, length^2: a lower bound that grows with the nodes."""
    return _integral(evidence, lambda z: z.curvature, lambda z: z.coarse_curvature)


def transport_cost(evidence: Evidence) -> Estimate:
    """E|Z1 - Z0|^2, length^2; W2^2 between source and target stands in the details where it is known."""
    known = {"w2_squared": evidence.w2_squared[0]} if evidence.has("w2_squared") else {}
    return mean_estimate(evidence.cost, NON_NEGATIVE, **evidence.solver_details, **known)


def normalized_path_energy(evidence: Evidence) -> Estimate:
    """NPE = (PE - W2^2) / W2^2, W2^2 that of the task and not of the samples; 2302.00482 gives its absolute value.

    Below 0 the flow moves less than any that reaches the target: it does not arrive.
    """
    w2, width = evidence.w2_squared
    if not w2 > 0:
        return Estimate.missing("source and target of this task are at distance 0, so there is nothing to divide by")
    energy = path_energy(evidence)
    assert energy.value is not None
    value, details = (energy.value - w2) / w2, {**energy.details, "w2_squared": w2}
    if energy.ci is None:
        return Estimate(value, None, energy.n, details=details)
    # The interval covers the sampling error of PE and the half-width of the W2^2 constant.
    half = ((energy.ci[1] - energy.value) ** 2 + (width * (1 + value)) ** 2) ** 0.5 / w2
    return Estimate(value, enclosing(value, value - half, value + half, AT_LEAST_MINUS_ONE), energy.n, details=details)


def __getattr__(name: str) -> Any:
    if name == "FlowContext":
        return moved.attribute(__name__, name, "fmbench.metrics.evidence", "Evidence")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
