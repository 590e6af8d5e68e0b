"""Entropic optimal transport and the Sinkhorn divergence.

For a cost ``C`` (squared distances), weights ``a``, ``b`` and a regularisation ``epsilon`` in the unit of the cost,

    OT_eps(a, b) = min_P <P, C> + epsilon KL(P | a b^T)

over the plans with marginals ``a`` and ``b``. The minimiser is ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)`` and
the value ``a . f + b . g``. The other common convention, ``<P, C> - epsilon H(P)``, has the same plan and a value lower
by ``epsilon (H(a) + H(b))``, which is ``2 epsilon log n`` for n points each. OT_eps of a measure with itself is not
zero; the divergence

    S_eps(x, y) = OT_eps(x, y) - (OT_eps(x, x) + OT_eps(y, y)) / 2

is (Genevay et al. 1706.00292, Feydy et al. 1810.08278). It goes to W2^2 as epsilon goes to 0 and to the squared
distance of the means as epsilon goes to infinity. All of these are squared lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fmbench.statistics.samples import checked_samples
from fmbench.transport.distances import squared_distances

TOLERANCE = 1e-7
"""Marginal error at which a plan counts as converged."""
ITERATIONS = 20_000
# Sweeps on a fixed kernel between two sweeps in the log domain, and how far (in logarithms) they may move before the
# kernel is rebuilt. Entries that underflowed in the kernel, below e^-708, stay below e^-450 of the plan.
KERNEL_SWEEPS = 50
KERNEL_RANGE = 120.0
# Potentials are warmed up on a geometric sequence of regularisations, from the size of the cost downwards.
ANNEALING = 4.0
ANNEALING_SWEEPS = 20


@dataclass(frozen=True)
class EntropicPlan:
    """Solution of an entropic transport problem.

    Attributes:
        plan: (n, m) masses.
        f, g: dual potentials, (n,) and (m,), in the unit of the cost.
        value: OT_eps in the Kullback-Leibler convention, ``a . f + b . g``.
        transport_cost: ``<P, C>``, without the regulariser.
        entropy: ``H(P) = -sum P log P``, in nats.
        marginal_error: ``|P 1 - a|_1 + |P^T 1 - b|_1``.
        iterations: sweeps, or sweeps and Newton steps.
    """

    plan: np.ndarray
    f: np.ndarray
    g: np.ndarray
    value: float
    transport_cost: float
    entropy: float
    marginal_error: float
    iterations: int


@dataclass(frozen=True)
class Problem:
    """A checked transport problem: (n, m) ``cost``, ``epsilon`` in its unit, positive weights ``a``, ``b`` of sum 1."""

    cost: np.ndarray
    epsilon: float
    a: np.ndarray
    b: np.ndarray


def problem(
    cost: np.ndarray, epsilon: float, a: np.ndarray | None, b: np.ndarray | None, tolerance: float = TOLERANCE
) -> Problem:
    """Check what every entropic solver takes.

    Args:
        cost: (n, m), any finite numbers.
        epsilon: regularisation, in the unit of ``cost``.
        a, b: positive weights (n,), (m,), normalised here; uniform when not given.
        tolerance: the plan is converged when ``|P 1 - a|_1 + |P^T 1 - b|_1`` is at most this.

    Raises ValueError for a cost that is not a finite matrix, an epsilon or a tolerance that is not positive, or unfit weights.
    """
    cost = np.asarray(cost, dtype=np.float64)
    if cost.ndim != 2 or not cost.size or not np.isfinite(cost).all():
        raise ValueError(f"cost must be a finite (n, m) matrix, got shape {cost.shape}")
    if not 0.0 < epsilon < np.inf:
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    weights = []
    for name, given, size in (("a", a, cost.shape[0]), ("b", b, cost.shape[1])):
        weight = np.ones(size) if given is None else np.asarray(given, dtype=np.float64)
        if weight.shape != (size,) or not np.isfinite(weight).all() or weight.min() <= 0.0:
            raise ValueError(
                f"{name} must hold {size} positive weights, got shape {weight.shape}; leave out points of weight 0"
            )
        weights.append(weight / weight.sum())
    return Problem(cost, float(epsilon), *weights)


def log_kernel(p: Problem, f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """``(f_i + g_j - C_ij) / epsilon``, (n, m): the logarithm of the plan's density with respect to ``a b^T``."""
    out = f[:, None] + g
    out -= p.cost
    out /= p.epsilon
    return out


def _log_mean_exp(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``log sum_j w_j exp(v_ij)`` for every row, without overflow."""
    top = values.max(axis=1, keepdims=True)
    return np.log(np.exp(values - top) @ weights) + top[:, 0]


def sweep(p: Problem, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """One Sinkhorn sweep in the log domain, rows then columns, and the row error |P 1 - a|_1 before it."""
    correction = _log_mean_exp(log_kernel(p, f, g), p.b)
    error = float(p.a @ np.abs(np.expm1(np.minimum(correction, 700.0))))
    f = f - p.epsilon * correction
    g = g - p.epsilon * _log_mean_exp(log_kernel(p, f, g).T, p.a)
    return f, g, error


def _kernel_sweeps(p: Problem, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Up to 50 sweeps as matrix products with the fixed kernel of the given potentials, without new exponentials."""
    kernel = np.exp(log_kernel(p, f, g))
    u, v = np.ones_like(f), np.ones_like(g)
    for _ in range(KERNEL_SWEEPS):
        rows = kernel @ (p.b * v)
        if not rows.min() > 0.0:
            break
        u_next = 1.0 / rows
        columns = (p.a * u_next) @ kernel
        if not columns.min() > 0.0:
            break
        v_next = 1.0 / columns
        if max(np.abs(np.log(u_next)).max(), np.abs(np.log(v_next)).max()) > KERNEL_RANGE:
            break
        u, v = u_next, v_next
    return f + p.epsilon * np.log(u), g + p.epsilon * np.log(v)


def warm_start(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Potentials from a few sweeps at each of a decreasing sequence of regularisations that ends above ``epsilon``."""
    f, g = np.zeros(len(p.a)), np.zeros(len(p.b))
    epsilon = float(p.cost.max() - p.cost.min())
    while epsilon > p.epsilon:
        stage = Problem(p.cost, epsilon, p.a, p.b)
        f, g, _ = sweep(stage, f, g)
        f, g = _kernel_sweeps(stage, f, g)
        epsilon /= ANNEALING
    return f, g


def solution(p: Problem, f: np.ndarray, g: np.ndarray, iterations: int) -> EntropicPlan:
    """Everything that follows from the potentials."""
    logs = log_kernel(p, f, g)
    logs += np.log(p.a)[:, None] + np.log(p.b)
    plan = np.exp(logs)
    error = np.abs(plan.sum(axis=1) - p.a).sum() + np.abs(plan.sum(axis=0) - p.b).sum()
    return EntropicPlan(
        plan=plan,
        f=f,
        g=g,
        value=float(p.a @ f + p.b @ g),
        transport_cost=float(np.vdot(plan, p.cost)),
        entropy=-float(np.vdot(plan, logs)),
        marginal_error=float(error),
        iterations=iterations,
    )


def sinkhorn(
    cost: np.ndarray,
    epsilon: float,
    a: np.ndarray | None = None,
    b: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> EntropicPlan:
    """Entropic transport plan by Sinkhorn's algorithm, log domain, float64.

    The problem and its ``tolerance`` are those of :func:`problem`; ``iterations`` is the largest number of sweeps at ``epsilon``.

    Raises ValueError for an unusable problem, RuntimeError when the tolerance is not reached.
    """
    p = problem(cost, epsilon, a, b, tolerance)
    f, g = warm_start(p)
    done, error = 0, np.inf
    while done < iterations:
        f, g, error = sweep(p, f, g)
        if error <= tolerance:
            # Sweeps never increase the error in exact arithmetic; the check is on the plan that is returned.
            found = solution(p, f, g, done + 1)
            if found.marginal_error <= tolerance:
                return found
        f, g = _kernel_sweeps(p, f, g)
        done += 1 + KERNEL_SWEEPS
    raise RuntimeError(
        f"Sinkhorn reached a marginal error of {error:.2g}, not {tolerance:g}, in {done} sweeps at epsilon "
        f"{p.epsilon:g}; raise epsilon or iterations, or use sinkhorn_newton"
    )


def entropic_cost(
    x: np.ndarray, y: np.ndarray, epsilon: float, solve: Callable[[np.ndarray, float], EntropicPlan] = sinkhorn
) -> float:
    """OT_eps between uniform measures on (n, d) and (m, d) points (Kullback-Leibler convention).

    In squared units of the samples, like ``epsilon``. ``solve`` is :func:`sinkhorn` or, much faster at small epsilon,
    :func:`fmbench.transport.sinkhorn_newton.sinkhorn_newton`. Raises ValueError for unusable samples and what ``solve``
    raises.
    """
    x, y = checked_samples(x, y)
    return solve(squared_distances(x, y), epsilon).value


def sinkhorn_divergence(
    x: np.ndarray, y: np.ndarray, epsilon: float, solve: Callable[[np.ndarray, float], EntropicPlan] = sinkhorn
) -> float:
    """Sinkhorn divergence S_eps between (n, d) and (m, d) points, in squared units of the samples; see the module.

    Zero for equal sets and never negative up to the solver's tolerance. Arguments and errors: :func:`entropic_cost`.
    """
    cross = entropic_cost(x, y, epsilon, solve)
    return cross - 0.5 * (entropic_cost(x, x, epsilon, solve) + entropic_cost(y, y, epsilon, solve))
