import math
from collections.abc import Callable

import numpy as np
import pytest

from fmbench.transport.distances import squared_distances
from fmbench.transport.entropic import EntropicPlan, entropic_cost, sinkhorn, sinkhorn_divergence
from fmbench.transport.exact import wasserstein2
from fmbench.transport.sinkhorn_newton import sinkhorn_newton

Solver = Callable[..., EntropicPlan]
both = pytest.mark.parametrize("solve", [sinkhorn, sinkhorn_newton])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clouds(n: int = 80, m: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    r = rng(seed)
    return r.normal(size=(n, 2)), 0.7 * r.normal(size=(m, 2)) + [1.0, 0.0]


def gaussian_grid(scale: float) -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(-6.0 * scale, 6.0 * scale, 400)
    return points, np.exp(-0.5 * (points / scale) ** 2)


@both
@pytest.mark.parametrize("epsilon", [0.2, 0.8, 5.0])
def test_plan_of_two_gaussians_has_the_closed_form_covariance(solve: Solver, epsilon: float) -> None:
    x, a = gaussian_grid(1.0)
    y, b = gaussian_grid(0.5)
    found = solve((x[:, None] - y) ** 2, epsilon, a, b)
    covariance = float(x @ found.plan @ y)
    # N(0, s^2) to N(0, r^2), cost (x - y)^2: the stationarity of <P, C> + epsilon KL over Gaussian plans.
    expected = 0.5 * (math.sqrt(4.0 * 1.0 * 0.25 + epsilon**2 / 4) - epsilon / 2)
    assert covariance == pytest.approx(expected, abs=2e-5)
    # OT_eps of Gaussians: <P, C> plus epsilon times the mutual information of the joint Gaussian.
    correlation = expected / 0.5
    value = 1.0 + 0.25 - 2.0 * expected - 0.5 * epsilon * math.log(1.0 - correlation**2)
    assert found.value == pytest.approx(value, abs=5e-5)


@both
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 100.0])
def test_marginals_duality_and_conventions(solve: Solver, epsilon: float) -> None:
    x, y = clouds()
    a, b = rng(1).random(80) + 0.1, rng(2).random(60) + 0.1
    found = solve(squared_distances(x, y), epsilon, a, b)
    a, b = a / a.sum(), b / b.sum()
    assert np.abs(found.plan.sum(axis=1) - a).sum() + np.abs(found.plan.sum(axis=0) - b).sum() <= 1e-7
    divergence = float((found.plan * np.log(found.plan / np.outer(a, b))).sum())
    # Primal and dual values meet, which certifies the optimum.
    assert found.transport_cost + epsilon * divergence == pytest.approx(found.value, rel=1e-6)
    self_entropies = -(a @ np.log(a)) - (b @ np.log(b))
    assert found.transport_cost - epsilon * found.entropy == pytest.approx(
        found.value - epsilon * self_entropies, rel=1e-6
    )


def test_small_epsilon_is_exact_and_large_epsilon_is_independent() -> None:
    x, y = clouds()
    exact = wasserstein2(x, y) ** 2
    found = sinkhorn_newton(squared_distances(x, y), 0.002)
    assert exact <= found.transport_cost <= exact + 0.002 * math.log(80)
    assert sinkhorn(squared_distances(x, y), 1e6).plan == pytest.approx(1 / (80 * 60), rel=1e-4)
    assert sinkhorn_divergence(x, y, 0.002, sinkhorn_newton) == pytest.approx(exact, rel=2e-3)
    means = float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
    assert sinkhorn_divergence(x, y, 1e5) == pytest.approx(means, rel=1e-3)


def test_divergence_is_zero_at_equality_positive_symmetric_and_exact_for_translations() -> None:
    x, y = clouds()
    value = sinkhorn_divergence(x, y, 0.5)
    assert sinkhorn_divergence(x, x[rng().permutation(80)], 0.5) == pytest.approx(0.0, abs=1e-8)
    assert entropic_cost(x, x, 0.5) > 0.1  # what the divergence takes away
    assert value > 0.1
    assert sinkhorn_divergence(y, x, 0.5) == pytest.approx(value, rel=1e-6)
    assert sinkhorn_divergence(2.0 * x, 2.0 * y, 2.0) == pytest.approx(4.0 * value, rel=1e-6)
    for epsilon in (0.1, 2.0):
        shifted = sinkhorn_divergence(x, x + np.array([3.0, 4.0]), epsilon, sinkhorn_newton)
        assert shifted == pytest.approx(25.0, rel=1e-7)


def test_regularisation_far_below_the_cost_stays_in_range() -> None:
    # exp(-C / epsilon) underflows everywhere: the plan needs the log domain.
    x = np.array([[0.0], [1.0], [2.0]])
    found = sinkhorn(squared_distances(x, x + 100.0), 0.05)
    np.testing.assert_allclose(found.plan, np.eye(3) / 3, atol=1e-9)


@both
def test_not_reaching_the_tolerance_is_an_error(solve: Solver) -> None:
    cost = squared_distances(*clouds())
    limit = {"iterations": 3} if solve is sinkhorn else {"steps": 1}
    with pytest.raises(RuntimeError, match=r"marginal error of .*, not 1e-12"):
        solve(cost, 0.01, tolerance=1e-12, **limit)


@both
def test_unusable_input_is_named(solve: Solver) -> None:
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        solve(np.ones(3), 1.0)
    with pytest.raises(ValueError, match="positive and finite, got 0"):
        solve(np.ones((2, 2)), 0.0)
    with pytest.raises(ValueError, match="b must hold 3 positive weights"):
        solve(np.ones((2, 3)), 1.0, np.ones(2), np.array([1.0, 0.0, 1.0]))
