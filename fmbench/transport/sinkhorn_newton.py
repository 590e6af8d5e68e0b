"""Sinkhorn-Newton-Sparse: Newton's method on the entropic dual with a sparsified Hessian (Tang et al., 2401.12253).

The potentials maximise the concave function ``F(f, g) = a . f + b . g - epsilon sum_ij P_ij`` with ``P`` the plan they
define. Its gradient is ``(a - P 1, b - P^T 1)`` and its Hessian ``-H / epsilon``,

    H = [[diag(P 1), P], [P^T, diag(P^T 1)]].

After some Sinkhorn sweeps the plan is nearly sparse for small epsilon. Newton's step then solves with the large entries
of ``P`` only (both diagonals stay complete, so the matrix stays positive semidefinite), by conjugate gradients, with a
backtracking line search on F. Where Sinkhorn needs tens of thousands of sweeps this takes tens of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import bmat, csr_matrix, diags
from scipy.sparse.linalg import cg

from fmbench.transport.entropic import (
    TOLERANCE,
    EntropicPlan,
    Problem,
    log_kernel,
    problem,
    solution,
    sweep,
    warm_start,
)

SWEEPS = 20
STEPS = 300
# A step that leaves more than this part of the marginal error was limited by what the sparse Hessian leaves out.
SLOW = 0.3
DENSER = 4.0
HALVINGS = 40
ARMIJO = 1e-4
NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class _Point:
    """The dual function at potentials z = (f, g): value, gradient and plan."""

    z: np.ndarray
    value: float
    gradient: np.ndarray
    plan: np.ndarray

    @property
    def error(self) -> float:
        return float(np.abs(self.gradient).sum())


def _evaluate(p: Problem, z: np.ndarray) -> _Point | None:
    """The dual function at ``z``, None where it or the plan overflows."""
    n = len(p.a)
    f, g = z[:n], z[n:]
    if not np.isfinite(z).all():
        return None
    logs = log_kernel(p, f, g)
    if logs.max() > 600.0:
        return None
    plan = np.exp(logs, out=logs)
    plan *= p.a[:, None]
    plan *= p.b
    gradient = np.concatenate([p.a - plan.sum(axis=1), p.b - plan.sum(axis=0)])
    return _Point(z, float(p.a @ f + p.b @ g - p.epsilon * plan.sum()), gradient, plan)


def _largest(plan: np.ndarray, count: int) -> csr_matrix:
    """The ``count`` largest entries of a matrix, sparse; none that is negligible beside the largest."""
    kept = np.flatnonzero(plan.ravel() > NEGLIGIBLE * plan.max())
    if count < len(kept):
        kept = kept[np.argpartition(plan.flat[kept], len(kept) - count)[len(kept) - count :]]
    return csr_matrix((plan.flat[kept], np.unravel_index(kept, plan.shape)), shape=plan.shape)


def _direction(point: _Point, epsilon: float, count: int) -> np.ndarray:
    """Newton direction with the ``count`` largest entries of the plan, by preconditioned conjugate gradients."""
    n, m = point.plan.shape
    sparse = _largest(point.plan, count)
    diagonal = np.concatenate([point.plan.sum(axis=1), point.plan.sum(axis=0)])
    hessian = bmat([[diags(diagonal[:n]), sparse], [sparse.T, diags(diagonal[n:])]], format="csr")
    # Inexact Newton: a fixed accuracy would make the convergence linear, one that follows the error keeps it fast.
    accuracy = min(0.1, point.error)
    # Of a nearly singular matrix the step may overflow; the line search then finds nothing, and a denser matrix follows.
    with np.errstate(over="ignore", invalid="ignore"):
        step, _ = cg(hessian, point.gradient, rtol=accuracy, maxiter=5 * (n + m), M=diags(1.0 / diagonal))
        return epsilon * step


def _line_search(p: Problem, point: _Point, direction: np.ndarray) -> _Point | None:
    """First of the steps 1, 1/2, 1/4, ... that increases the dual enough, None when there is none."""
    slope = float(point.gradient @ direction)
    rounding = 1e-14 * (abs(point.value) + p.epsilon)
    length = 1.0
    for _ in range(HALVINGS):
        found = _evaluate(p, point.z + length * direction)
        if found is not None and found.value >= point.value + ARMIJO * length * slope - rounding:
            return found
        length *= 0.5
    return None


def sinkhorn_newton(
    cost: np.ndarray,
    epsilon: float,
    a: np.ndarray | None = None,
    b: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    density: float | None = None,
    sweeps: int = SWEEPS,
    steps: int = STEPS,
) -> EntropicPlan:
    """Entropic transport plan by Sinkhorn-Newton-Sparse of a :func:`~fmbench.transport.entropic.problem`.

    Args:
        cost, epsilon, a, b, tolerance: the problem.
        density: part of the plan's entries kept in the Hessian, in (0, 1]; 1 is Newton's method proper. When not given,
            2 / min(n, m) as in the paper, and four times more whenever a step gains too little.
        sweeps: Sinkhorn sweeps at ``epsilon`` before the first Newton step, after the warm start.
        steps: largest number of Newton steps.

    Raises ValueError for an unusable problem or density, RuntimeError when the tolerance is not reached.
    """
    p = problem(cost, epsilon, a, b, tolerance)
    if density is not None and not 0.0 < density <= 1.0:
        raise ValueError(f"density must be in (0, 1], got {density}")
    f, g = warm_start(p)
    for _ in range(sweeps):
        f, g, _ = sweep(p, f, g)
    point = _evaluate(p, np.concatenate([f, g]))
    kept = density or min(1.0, 2.0 / min(p.cost.shape))
    taken = 0
    while point is not None and point.error > tolerance and taken < steps:
        before = point
        point = _line_search(p, before, _direction(before, p.epsilon, int(np.ceil(kept * p.cost.size))))
        taken += 1
        if density is None and (point is None or point.error > SLOW * before.error):
            point, kept = point or before, min(1.0, DENSER * kept)
    if point is None or not point.error <= tolerance:
        reached = "none" if point is None else f"{point.error:.2g}"
        raise RuntimeError(
            f"Sinkhorn-Newton-Sparse reached a marginal error of {reached}, not {tolerance:g}, in {taken} steps at "
            f"epsilon {p.epsilon:g}; raise epsilon, sweeps or density"
        )
    n = len(p.a)
    return solution(p, point.z[:n], point.z[n:], sweeps + taken)
