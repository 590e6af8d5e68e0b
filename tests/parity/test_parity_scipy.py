"""Parity with SciPy: ``linear_sum_assignment`` for exact W2 of equal sizes, ``sqrtm`` for the Frechet distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from fmbench.transport.exact import wasserstein2


@pytest.mark.parametrize(("n", "d"), [(1, 3), (400, 2), (400, 64), (250, 300)])
def test_exact_w2_is_the_root_of_the_best_assignment(n, d, clouds) -> None:
    x, y = clouds(n, n, d)
    cost = cdist(x, y, "sqeuclidean")
    reference = math.sqrt(cost[linear_sum_assignment(cost)].mean())
    for solver in ("simplex", "assignment"):
        assert wasserstein2(x, y, solver) == pytest.approx(reference, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (2000, 64), (2000, 256)])
def test_frechet_distance_with_the_matrix_square_root(n, d, feature_pair, covariances, agreement) -> None:
    pair = feature_pair(n, d)
    mu1, cov1, mu2, cov2 = covariances(pair)
    cross = np.trace(np.real(np.asarray(sqrtm(cov1 @ cov2))))
    value = ((mu1 - mu2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross
    assert abs(agreement(float(value), pair)) < 1e-12
