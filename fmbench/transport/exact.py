"""Exact 2-Wasserstein distance between two sets of points.

``W2(x, y)^2 = min_P sum_ij P_ij |x_i - y_j|^2`` over the plans ``P`` with uniform marginals ``1/n`` and ``1/m``.
Distances carry the unit of the samples: the root is always taken. Tables in the literature that print W2^2 (C2OT)
and tables that print W2 (torchcfm) must not be mixed. Two finite sets drawn from the *same* distribution are not at
distance zero; :func:`same_distribution_floor` says how far.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from fmbench.result import Estimate
from fmbench.statistics.intervals import over_seeds
from fmbench.statistics.samples import checked_samples

ITERATIONS = 500_000_000
"""Pivot limit of the network simplex. POT's default of 1e5 is too low at n = 2048: wrong values, only a warning."""
SOLVERS = ("auto", "simplex", "assignment")
# From here on lap beats the network simplex, and a matrix product beats differences (lap loses tenfold in 2-D).
ASSIGNMENT_DIMENSION = 64

Generator = TypeVar("Generator")


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, (n, m) float64, between (n, d) and (m, d) points.

    In low dimension from the differences, without cancellation; from 64 dimensions on by one matrix product of centred
    points, whose rounding error is about 1e-15 of the largest squared norm.
    """
    from scipy.spatial.distance import cdist

    if x.shape[1] < ASSIGNMENT_DIMENSION:
        return cdist(x, y, "sqeuclidean")
    centre = 0.5 * (x.mean(axis=0) + y.mean(axis=0))
    x, y = x - centre, y - centre
    cost = x @ (-2.0 * y.T)
    cost += (x * x).sum(axis=1)[:, None]
    cost += (y * y).sum(axis=1)
    return np.maximum(cost, 0.0, out=cost)


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


def simplex(cost: np.ndarray) -> Plan:
    """By the network simplex. Raises RuntimeError when the solver stopped early."""
    import ot

    n, m = cost.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns about is in its log and raised below
        plan, log = ot.emd(np.full(n, 1.0 / n), np.full(m, 1.0 / m), cost, numItermax=ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"exact optimal transport of {n} x {m} points did not reach the optimum: {log['warning']}")
    i, j = np.nonzero(plan)
    return Plan(i, j, plan[i, j], (np.asarray(log["u"]), np.asarray(log["v"])))


def assignment(cost: np.ndarray) -> Plan:
    """Optimal permutation between sets of equal size, by ``lap`` where installed, else by SciPy."""
    from scipy.optimize import linear_sum_assignment

    n = len(cost)
    lap = _lap()
    i = np.arange(n)
    j = linear_sum_assignment(cost)[1] if lap is None else np.asarray(lap.lapjv(cost, return_cost=False)[0])
    return Plan(i, j, np.full(n, 1.0 / n))


def wasserstein2(x: np.ndarray, y: np.ndarray, solver: str = "auto") -> float:
    """Exact W2 (root taken, in the unit of the samples) between uniform measures on (n, d) and (m, d) points.

    The plan is optimal for float64 squared distances and the value is summed over its support from the differences
    themselves, so that equal sets are at distance exactly zero and large coordinates cost no digits.

    Args:
        x, y: finite (n, d) and (m, d) arrays; n and m may differ.
        solver: ``simplex`` (POT's network simplex, any sizes), ``assignment`` (permutations, equal sizes only) or
            ``auto``: assignment for equal sizes from 64 dimensions on if the optional package ``lap`` is installed,
            else simplex. All are exact; only time differs.

    Raises ValueError for unusable samples or an unknown or impossible solver, RuntimeError when the solver stops early.
    """
    x, y = checked_samples(x, y)
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if solver == "assignment" and len(x) != len(y):
        raise ValueError(f"solver 'assignment' needs sets of equal size, got {len(x)} and {len(y)}; use 'simplex'")
    if solver == "auto":
        high = len(x) == len(y) and x.shape[1] >= ASSIGNMENT_DIMENSION and _lap() is not None
        solver = "assignment" if high else "simplex"
    return (assignment if solver == "assignment" else simplex)(squared_distances(x, y)).distance(x, y)


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
