"""Sparsity-constrained optimal transport: at most k senders per receiver (Liu, Puigcerver and Blondel, 2209.15466).

    min_T <T, C> + (gamma / 2) |T|^2     T 1 = a,  T^T 1 = b,  every column of T has at most k nonzeros

solved by L-BFGS in POT's semi-dual. With fewer nonzeros than the quadratic problem would use, the problem is not
convex: columns are then still exact, but the rows of the plan found may miss their marginal. By how much is part of the
result, never hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmbench.transport.entropic import problem

ITERATIONS = 10_000
# Relative decrease of the dual at which L-BFGS stops; its default of 1e-9 leaves marginal errors of 1e-4.
STOP = 1e-15


@dataclass(frozen=True)
class SparsePlan:
    """A k-sparse transport plan.

    Attributes:
        plan: (n, m) masses.
        transport_cost: ``<T, C>``, without the regulariser.
        row_violation: ``|T 1 - a|_1``; zero up to the solver's accuracy where the constraint is harmless.
        column_violation: ``|T^T 1 - b|_1``, zero up to rounding.
        nonzeros: largest number of nonzeros in a column, at most k.
    """

    plan: np.ndarray
    transport_cost: float
    row_violation: float
    column_violation: float
    nonzeros: int


@dataclass(frozen=True)
class _SparseSimplex:
    """Conjugate of the regulariser for POT's semi-dual, which calls it ``max_Omega``.

    POT's own version of it prints to the terminal at every evaluation.
    """

    k: int
    gamma: float

    def max_Omega(self, scores: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value (m,) and maximiser (n, m) of ``s . t - (gamma b / 2) |t|^2`` over the simplex with at most k nonzeros.

        The maximiser is the projection of ``s / (gamma b)`` on the simplex, on its k largest entries.
        """
        columns = np.arange(scores.shape[1])
        top = np.argpartition(-scores, self.k - 1, axis=0)[: self.k]
        top = np.take_along_axis(top, np.argsort(-scores[top, columns], axis=0, kind="stable"), axis=0)
        ranked = scores[top, columns] / (b * self.gamma)
        threshold = (np.cumsum(ranked, axis=0) - 1.0) / np.arange(1, self.k + 1)[:, None]
        support = (ranked > threshold).sum(axis=0)
        shares = np.zeros_like(scores)
        shares[top, columns] = np.maximum(ranked - threshold[support - 1, columns], 0.0)
        value = (scores * shares).sum(axis=0) - 0.5 * self.gamma * b * (shares * shares).sum(axis=0)
        return value, shares


def sparse_ot(
    cost: np.ndarray, k: int, gamma: float, a: np.ndarray | None = None, b: np.ndarray | None = None
) -> SparsePlan:
    """Transport plan with at most ``k`` nonzeros per column.

    Args:
        cost: (n, m), any finite numbers.
        k: largest number of nonzeros in a column; from n on this is quadratically regularised transport.
        gamma: weight of the quadratic term, in the unit of ``cost``; a larger one spreads the plan.
        a, b: positive weights (n,), (m,), normalised here; uniform when not given.

    Raises ValueError for an unusable problem, a gamma that is not positive or a k below 1.
    """
    from ot.smooth import get_plan_from_semi_dual, semi_dual_obj_grad
    from scipy.optimize import minimize

    if not 0.0 < gamma < np.inf:
        raise ValueError(f"gamma must be positive and finite, got {gamma}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    p = problem(cost, gamma, a, b)
    conjugate = _SparseSimplex(min(k, len(p.a)), gamma)

    def loss(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = semi_dual_obj_grad(alpha, p.a, p.b, p.cost, conjugate)
        return -value, -gradient

    limits = {"maxiter": ITERATIONS, "maxfun": ITERATIONS}
    alpha = minimize(loss, np.zeros(len(p.a)), method="L-BFGS-B", jac=True, tol=STOP, options=limits).x
    plan = get_plan_from_semi_dual(alpha, p.b, p.cost, conjugate)
    return SparsePlan(
        plan=plan,
        transport_cost=float(np.vdot(plan, p.cost)),
        row_violation=float(np.abs(plan.sum(axis=1) - p.a).sum()),
        column_violation=float(np.abs(plan.sum(axis=0) - p.b).sum()),
        nonzeros=int((plan > 0.0).sum(axis=0).max()),
    )
