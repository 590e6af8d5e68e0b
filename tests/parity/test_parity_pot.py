"""Parity with POT 0.9.7: exact, entropic and sliced transport, the Bures distance.

Conventions: ``emd2`` is W2^2, ours the root. ``sinkhorn2`` is ``<P, C>``, ours ``transport_cost``; ``ot.solve`` with
``reg_type="KL"`` adds ``epsilon KL(P | a b^T)``, ours ``value``. ``empirical_sinkhorn_divergence`` debiases ``<P, C>``
(the sharp divergence), not OT_epsilon: it differs from ours by terms of order epsilon and is assembled here.
"""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest

from fmbench.metrics.frechet import frechet_distance
from fmbench.transport.distances import squared_distances
from fmbench.transport.entropic import EntropicPlan, sinkhorn, sinkhorn_divergence
from fmbench.transport.exact import wasserstein2
from fmbench.transport.sinkhorn_newton import sinkhorn_newton
from fmbench.transport.sliced import directions, sliced_wasserstein2

solvers = pytest.mark.parametrize("solve", [sinkhorn, sinkhorn_newton])


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 2), (300, 200, 2), (500, 500, 64), (100, 350, 200)])
def test_exact_w2(n, m, d, clouds) -> None:
    x, y = clouds(n, m, d)
    squared, log = ot.emd2([], [], ot.dist(x, y), numItermax=10**8, log=True)
    assert log["warning"] is None
    assert wasserstein2(x, y) == pytest.approx(math.sqrt(squared), rel=1e-12)


@solvers
@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_entropic_plan_and_cost(solve, epsilon, clouds) -> None:
    cost = squared_distances(*clouds(80, 60, 2))
    a, b = np.full(80, 1 / 80), np.full(60, 1 / 60)
    settings = {"method": "sinkhorn_log", "numItermax": 50_000, "stopThr": 1e-11}
    found: EntropicPlan = solve(cost, epsilon, tolerance=1e-9)
    np.testing.assert_allclose(found.plan, ot.sinkhorn(a, b, cost, epsilon, **settings), atol=1e-9)
    assert found.transport_cost == pytest.approx(ot.sinkhorn2(a, b, cost, epsilon, **settings), rel=1e-6)


@solvers
@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_entropic_value_with_weights(solve, epsilon, clouds) -> None:
    cost = squared_distances(*clouds(80, 60, 5))
    a, b = (np.random.default_rng(k).uniform(0.2, 1.0, k) for k in (80, 60))
    a, b = a / a.sum(), b / b.sum()
    theirs = ot.solve(cost, a, b, reg=epsilon, reg_type="KL", max_iter=50_000, tol=1e-11)
    assert solve(cost, epsilon, a, b).value == pytest.approx(float(theirs.value), rel=1e-8)


def test_sharp_divergence_and_what_ours_adds(clouds) -> None:
    x, y = clouds(80, 60, 2)
    epsilon = 0.5
    theirs = float(ot.bregman.empirical_sinkhorn_divergence(x, y, epsilon, numIterMax=50_000, stopThr=1e-10))
    plans = [sinkhorn(squared_distances(*pair), epsilon) for pair in ((x, y), (x, x), (y, y))]
    weights = (1.0, -0.5, -0.5)
    sharp = sum(w * p.transport_cost for w, p in zip(weights, plans, strict=True))
    assert sharp == pytest.approx(theirs, rel=1e-6)
    information = sum(w * (p.value - p.transport_cost) for w, p in zip(weights, plans, strict=True))
    assert sinkhorn_divergence(x, y, epsilon) == pytest.approx(theirs + information, rel=1e-6)
    assert abs(information) > 1e-3 * theirs


@pytest.mark.parametrize(("n", "m", "d"), [(200, 200, 6), (200, 150, 6), (90, 130, 64)])
def test_sliced_w2_on_the_same_directions(n, m, d, clouds) -> None:
    x, y = clouds(n, m, d)
    theta = directions(d, 64, np.random.default_rng(2))
    reference = ot.sliced_wasserstein_distance(x, y, projections=theta.T, p=2)
    assert sliced_wasserstein2(x, y, 64, np.random.default_rng(2)) == pytest.approx(reference, rel=1e-12)


def test_frechet_distance_is_the_squared_bures_distance(feature_pair, covariances) -> None:
    mu1, cov1, mu2, cov2 = covariances(feature_pair(2000, 64))
    bures = float(ot.gaussian.bures_wasserstein_distance(mu1, mu2, cov1, cov2))
    assert frechet_distance(mu1, cov1, mu2, cov2) == pytest.approx(bures**2, rel=1e-10)
