"""Transport metrics: exact, entropic and sliced distances.

Entropic solvers are stopped at one accuracy: marginal error 1e-7 in the sum of absolute values. POT's ``stopThr`` bounds
the Euclidean norm, which can be smaller by sqrt(n), so it gets 1e-7 / sqrt(n). geomloss has no tolerance; it runs 400
sweeps, and the column of differences says what that leaves.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from case import Case, Sizes, clouds

from fmbench.transport.distances import squared_distances
from fmbench.transport.entropic import TOLERANCE, sinkhorn, sinkhorn_divergence
from fmbench.transport.exact import wasserstein2
from fmbench.transport.sinkhorn_newton import sinkhorn_newton
from fmbench.transport.sliced import directions, sliced_wasserstein2

Pair = tuple[np.ndarray, np.ndarray]
Problem = tuple[np.ndarray, float]

PIVOTS = 10**8
PROJECTIONS = 256
SWEEPS = 400
EPSILON = 0.05
"""Regularisation over the median cost."""
SMALL_EPSILON = 0.01


def _emd2(pair: Pair) -> float:
    import ot

    return math.sqrt(ot.emd2([], [], ot.dist(*pair), numItermax=PIVOTS))


def _scipy_assignment(pair: Pair) -> float:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(*pair, "sqeuclidean")
    return math.sqrt(cost[linear_sum_assignment(cost)].mean())


def _problem(n: int, d: int, epsilon: float = EPSILON) -> Problem:
    cost = squared_distances(*clouds(n, d))
    return cost, epsilon * float(np.median(cost))


def _pot_sinkhorn(problem: Problem) -> float:
    import ot

    cost, epsilon = problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its only word about not having converged
        solved = ot.solve(
            cost, reg=epsilon, reg_type="KL", max_iter=100_000, tol=TOLERANCE / math.sqrt(len(cost)), verbose=False
        )
    return float(solved.value)


def _points(n: int, d: int) -> tuple[np.ndarray, np.ndarray, float]:
    pair = clouds(n, d)
    return *pair, EPSILON * float(np.median(squared_distances(*pair)))


def _geomloss(inputs: tuple[np.ndarray, np.ndarray, float], debias: bool) -> float:
    import torch
    from geomloss.ot import solve_sample

    x, y, epsilon = inputs
    solved = solve_sample(torch.from_numpy(x), torch.from_numpy(y), reg=epsilon, debias=debias, max_iter=SWEEPS)
    return float(solved.value)


def _pot_sliced(pair: Pair) -> float:
    import ot

    theta = directions(pair[0].shape[1], PROJECTIONS)
    return float(ot.sliced_wasserstein_distance(*pair, projections=theta.T, p=2))


def _sinkhorn_on_points(inputs: tuple[Any, Any, float]) -> float:
    x, y, epsilon = inputs
    return sinkhorn(squared_distances(x, y), epsilon).value


ENTROPIC_SIZES = {"small": Sizes((100, 200, 400), (2, 8, 32)), "medium": Sizes((250, 500, 1000), (2, 16, 128))}
NEWTON_SIZES = {"small": Sizes((50, 100, 200), (2, 8, 32)), "medium": Sizes((100, 200, 400, 800), (2, 16, 128))}

TRANSPORT_CASES = {
    "w2": Case(
        clouds,
        lambda pair: wasserstein2(*pair),
        {"POT emd2": _emd2, "scipy assignment": _scipy_assignment},
        {"small": Sizes((100, 200, 400), (2, 16, 128)), "medium": Sizes((500, 1000, 2000), (2, 16, 128, 512))},
    ),
    "entropic": Case(_problem, lambda p: sinkhorn(*p).value, {"POT sinkhorn_log": _pot_sinkhorn}, ENTROPIC_SIZES),
    "entropic-points": Case(
        _points, _sinkhorn_on_points, {"geomloss": lambda inputs: _geomloss(inputs, False)}, ENTROPIC_SIZES
    ),
    "divergence": Case(
        _points,
        lambda inputs: sinkhorn_divergence(inputs[0], inputs[1], inputs[2], sinkhorn_newton),
        {"geomloss": lambda inputs: _geomloss(inputs, True)},
        ENTROPIC_SIZES,
    ),
    "newton": Case(
        lambda n, d: _problem(n, d, SMALL_EPSILON),
        lambda p: sinkhorn_newton(*p).value,
        {"our sinkhorn": lambda p: sinkhorn(*p, iterations=200_000).value},
        NEWTON_SIZES,
    ),
    "sliced": Case(
        clouds,
        lambda pair: sliced_wasserstein2(*pair, projections=PROJECTIONS),
        {"POT sliced": _pot_sliced},
        {"small": Sizes((500, 1000, 2000), (2, 16, 128)), "medium": Sizes((2000, 8000, 32_000), (2, 32, 512))},
    ),
}
