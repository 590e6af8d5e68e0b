"""Exact optimal transport between two finite sets of points with equal weights, and the 2-Wasserstein distance.

``W2(x, y)^2 = min_P sum_ij P_ij |x_i - y_j|^2`` over the plans ``P`` with uniform marginals ``1/n`` and ``1/m``.
Distances carry the unit of the samples: the root is always taken. Tables in the literature that print W2^2 (C2OT)
and tables that print W2 (torchcfm) must not be mixed. Two finite sets drawn from the *same* distribution are not at
distance zero; :func:`same_distribution_floor` says how far.

A network simplex decides in floating point with a tolerance of its own: one pair of points far away on both sides makes costs so large,
or tiny coordinates make them so small, that it takes wrong decisions about all the others, in silence. Every plan is therefore certified
by duality: potentials ``f_i + g_j <= C_ij`` prove that no plan costs less than ``mean f + mean g``. Where the proof fails, costs that no
optimal plan can use are cut down and the problem is solved again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fmbench.records.result import Estimate
from fmbench.statistics.intervals import over_seeds
from fmbench.statistics.samples import checked_samples
from fmbench.transport.distances import BLOCK, EPS, squared_distances

ITERATIONS = 500_000_000
"""Pivot limit of the network simplex. POT's default of 1e5 is too low at n = 2048: wrong values, only a warning."""
SOLVERS = ("auto", "simplex", "assignment")
# SciPy's assignment beats the network simplex from here on (it loses sixfold in 2-D), and lap beats both from there on.
ASSIGNMENT_DIMENSION, LAP_DIMENSION = 8, 64
CROWDED = 0.3
"""Share of the columns that are nearest to some row below which SciPy's assignment is slow: most rows want the same few."""
GAP = 1e-9
"""Largest share of a plan's cost by which a cheaper plan may exist: what certifies a plan."""
CAP_GROWTH = 16.0

Generator = TypeVar("Generator")


def _lap() -> Any:
    """The optional ``lap`` package, None when it is not installed."""
    try:
        import lap
    except ImportError:
        return None
    return lap


@dataclass(frozen=True)
class Plan:
    """An optimal plan: its support ``(i, j)`` with masses, and Kantorovich potentials, (n,) and (m,), where known."""

    i: np.ndarray
    j: np.ndarray
    mass: np.ndarray
    potentials: tuple[np.ndarray, np.ndarray] | None = None

    def distance(self, x: np.ndarray, y: np.ndarray) -> float:
        """W2 from the differences of the matched points themselves."""
        return math.sqrt(float(self.mass @ ((x[self.i] - y[self.j]) ** 2).sum(axis=1)))

    def cost(self, cost: np.ndarray) -> float:
        """``sum_ij P_ij C_ij`` for an (n, m) cost."""
        return float(self.mass @ cost[self.i, self.j])

    @property
    def partners(self) -> np.ndarray:
        """The ``j`` that gets most of every ``i``, (n,): a permutation between sets of equal size, whose optimal plans are permutations."""
        order = np.lexsort((-self.j, self.mass))  # the last one written is the largest, of equal ones the first
        found = np.empty(int(self.i.max()) + 1, dtype=np.int64)
        found[self.i[order]] = self.j[order]
        return found


def _network_simplex(cost: np.ndarray) -> Plan:
    """By the network simplex, not certified. Raises RuntimeError when the solver stopped early."""
    import ot

    n, m = cost.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns about is in its log and raised below
        plan, log = ot.emd(np.full(n, 1.0 / n), np.full(m, 1.0 / m), cost, numItermax=ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"exact optimal transport of {n} x {m} points did not reach the optimum: {log['warning']}")
    # Masses of a vertex are multiples of 1 / (n m); smaller ones are what 1/n and 1/m round off, at whatever cost there is.
    i, j = np.nonzero(plan > 0.5 / (n * m))
    return Plan(i, j, plan[i, j], (np.asarray(log["u"]), np.asarray(log["v"])))


def duality_gap(cost: np.ndarray, plan: Plan) -> float:
    """By how much at most a cheaper plan exists, as a share of the plan's cost: 0 for a plan of cost 0.

    The potential of the rows is kept, that of the columns is the largest that is feasible with it, ``g_j = min_i C_ij - f_i``. What
    rounding the potentials may hide counts into the gap.
    """
    primal = plan.cost(cost)
    if primal <= 0 or plan.potentials is None:
        return 0.0 if primal <= 0 else math.inf
    f = plan.potentials[0] - np.median(plan.potentials[0])
    g = np.full(cost.shape[1], np.inf)
    for start in range(0, len(cost), BLOCK):
        rows = slice(start, start + BLOCK)
        np.minimum(g, (cost[rows] - f[rows, None]).min(axis=0), out=g)
    rounding = EPS * float(np.abs(f).mean() + np.abs(g).mean())
    return (primal - float(f.mean() + g.mean()) + rounding) / primal


def _below_a_cap(cost: np.ndarray) -> Plan:
    """A certified plan of the costs cut at a cap, for the lowest cap that the plan does not reach.

    Cutting makes no plan dearer, so a plan that is optimal for the cut costs and uses none of them is optimal for the costs themselves.
    Every row and every column uses at least its smallest cost: the first cap stands above these. Costs are divided by the cap, because the
    simplex takes tiny ones for 0. Raises RuntimeError without a certificate.
    """
    largest = float(cost.max())
    cap = 2 * max(float(cost.min(axis=1).max()), float(cost.min(axis=0).max())) or largest * EPS
    while True:
        unit = 2.0 ** math.floor(math.log2(cap))
        below = np.minimum(cost, cap) / unit
        plan = _network_simplex(below)
        gap = duality_gap(below, plan)
        if gap <= GAP and (cap >= largest or (cost[plan.i, plan.j] < cap).all()):
            assert plan.potentials is not None
            f, g = plan.potentials
            return replace(plan, potentials=(f * unit, g * unit))
        if cap >= largest:
            raise RuntimeError(
                f"no exact plan of {cost.shape[0]} x {cost.shape[1]} points at squared distances up to {largest:.3g}: the best one found may "
                f"cost {gap:.2g} of itself too much; leave out the points that are far from all others"
            )
        cap *= CAP_GROWTH


def simplex(cost: np.ndarray) -> Plan:
    """Optimal plan of an (n, m) cost by the network simplex, certified by :func:`duality_gap`, with its potentials.

    Raises RuntimeError when the solver stops early or no plan can be certified.
    """
    plan = _network_simplex(cost)
    return plan if duality_gap(cost, plan) <= GAP else _below_a_cap(cost)


def _scipy_permutation(cost: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)[1]


def _lap_permutation(cost: np.ndarray) -> np.ndarray:
    lap = _lap()
    assert lap is not None
    return np.asarray(lap.lapjv(cost, return_cost=False)[0])


def assignment(cost: np.ndarray, permutation: Callable[[np.ndarray], np.ndarray] = _scipy_permutation) -> Plan:
    """Optimal permutation between sets of equal size, by SciPy or another exact solver; a certified one of :func:`simplex` where
    rounding of the largest cost could hide a cheaper one. Raises RuntimeError like it.
    """
    n = len(cost)
    plan = Plan(np.arange(n), permutation(cost), np.full(n, 1.0 / n))
    paid = plan.cost(cost)
    return plan if paid == 0 or EPS * float(cost.max()) <= GAP * paid else _below_a_cap(cost)


def _fastest(cost: np.ndarray, dimension: int) -> Callable[[np.ndarray], Plan]:
    """The solver that measurement says is the fastest for the cost of points of a dimension; all give the same value."""
    if cost.shape[0] != cost.shape[1] or dimension < ASSIGNMENT_DIMENSION:
        return simplex
    if dimension >= LAP_DIMENSION and _lap() is not None:
        return partial(assignment, permutation=_lap_permutation)
    wanted = len(np.unique(cost.argmin(axis=1)))
    return assignment if wanted >= CROWDED * len(cost) else simplex


def wasserstein2(x: np.ndarray, y: np.ndarray, solver: str = "auto") -> float:
    """Exact W2 (root taken, in the unit of the samples) between uniform measures on (n, d) and (m, d) points.

    The plan is optimal for float64 squared distances and the value is summed over its support from the differences
    themselves, so that equal sets are at distance exactly zero and large coordinates cost no digits.

    Args:
        x, y: finite (n, d) and (m, d) arrays; n and m may differ.
        solver: ``simplex`` (POT's network simplex, any sizes), ``assignment`` (SciPy's permutations, equal sizes only) or
            ``auto``: for equal sizes the optional package ``lap`` from 64 dimensions on, an assignment from 8 on where most points
            have a nearest one of their own, else simplex. All are exact; only time differs.

    Raises ValueError for unusable samples or an unknown or impossible solver, RuntimeError when the solver stops early or its plan
    cannot be certified.
    """
    x, y = checked_samples(x, y)
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if solver == "assignment" and len(x) != len(y):
        raise ValueError(f"solver 'assignment' needs sets of equal size, got {len(x)} and {len(y)}; use 'simplex'")
    cost = squared_distances(x, y)
    chosen = {"simplex": simplex, "assignment": assignment}.get(solver) or _fastest(cost, x.shape[1])
    return chosen(cost).distance(x, y)


def same_distribution_floor(
    sample: Callable[[int, Generator], Any], n: int, generators: Sequence[Generator]
) -> Estimate:
    """W2 between two fresh sets of ``n`` points of one distribution: what a perfect model scores at this sample size.

    Args:
        sample: ``sample(n, generator)`` -> (n, *shape) points, e.g. a task's ``target.sample`` with torch generators.
        n: size of each set.
        generators: one per repetition; both sets of a repetition are drawn from it, one after the other.

    Returns the mean over repetitions with its Student t interval (no interval from one). Raises ValueError without
    generators.
    """
    if not generators:
        raise ValueError("the same-distribution floor needs at least one generator, got none")
    estimates = []
    for generator in generators:
        first, second = (np.asarray(sample(n, generator), dtype=np.float64).reshape(n, -1) for _ in range(2))
        estimates.append(Estimate(wasserstein2(first, second), n=n))
    return over_seeds(estimates)
