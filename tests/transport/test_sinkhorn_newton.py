from itertools import pairwise

import numpy as np
import pytest

from fmbench.transport import sinkhorn_newton as module
from fmbench.transport.distances import squared_distances
from fmbench.transport.entropic import sinkhorn
from fmbench.transport.sinkhorn_newton import sinkhorn_newton


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("density", [None, 0.05, 1.0])
def test_plan_equals_the_plan_of_long_sinkhorn(density: float | None) -> None:
    cost = squared_distances(rng().normal(size=(90, 3)), rng(1).normal(size=(70, 3)) + 0.5)
    slow = sinkhorn(cost, 0.2, tolerance=1e-11, iterations=200_000)
    fast = sinkhorn_newton(cost, 0.2, tolerance=1e-10, density=density)
    np.testing.assert_allclose(fast.plan, slow.plan, atol=1e-10)
    assert fast.value == pytest.approx(slow.value, rel=1e-9)


@pytest.mark.slow
def test_it_needs_few_steps_where_sinkhorn_needs_thousands_of_sweeps() -> None:
    # The random assignment problem of the paper: uniform costs, eta = 1 / epsilon = 1200.
    cost = rng().random((200, 200))
    newton = sinkhorn_newton(cost, 1 / 1200)
    assert newton.iterations < 100
    with pytest.raises(RuntimeError, match="not 1e-07"):
        sinkhorn(cost, 1 / 1200, iterations=10 * newton.iterations)


def test_full_density_converges_quadratically(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = squared_distances(rng().normal(size=(60, 2)), rng(1).normal(size=(60, 2)))
    errors: list[float] = []
    evaluate = module._evaluate

    def record(*arguments: object) -> object:
        point = evaluate(*arguments)  # type: ignore[arg-type]
        errors.append(float("inf") if point is None else point.error)
        return point

    monkeypatch.setattr(module, "_evaluate", record)
    sinkhorn_newton(cost, 0.3, density=1.0, tolerance=1e-12, sweeps=1)
    near = [e for e in errors if e < 1e-2]
    assert len(near) >= 3
    for before, after in pairwise(near):
        assert after <= max(50.0 * before**2, 1e-13)


def test_the_sparse_hessian_keeps_the_largest_entries() -> None:
    plan = rng().random((7, 9))
    kept = module._largest(plan, 10).toarray()
    assert (kept > 0).sum() == 10
    assert kept[kept > 0].min() > plan[kept == 0].max()
    np.testing.assert_array_equal(module._largest(plan, 63).toarray(), plan)


def test_the_gradient_is_the_derivative_of_the_dual() -> None:
    p = module.problem(rng().random((4, 5)), 0.3, None, rng(1).random(5) + 0.5)
    z, step = rng(2).normal(size=9) * 0.1, 1e-5
    point = module._evaluate(p, z)
    assert point is not None
    for i, unit in enumerate(np.eye(9)):
        ahead, behind = module._evaluate(p, z + step * unit), module._evaluate(p, z - step * unit)
        assert ahead is not None
        assert behind is not None
        assert (ahead.value - behind.value) / (2 * step) == pytest.approx(point.gradient[i], abs=1e-8)


def test_the_newton_direction_solves_the_full_system() -> None:
    p = module.problem(rng().random((5, 6)), 0.5, None, None)
    z, step = rng(2).normal(size=11) * 1e-4, 1e-6
    point = module._evaluate(p, z)
    assert point is not None
    direction = module._direction(point, p.epsilon, 30)
    ahead, behind = module._evaluate(p, z + step * direction), module._evaluate(p, z - step * direction)
    assert ahead is not None
    assert behind is not None
    # Along the direction the gradient falls at the rate of the gradient itself: it would vanish after a full step.
    residual = (ahead.gradient - behind.gradient) / (2 * step) + point.gradient
    assert np.linalg.norm(residual) < 0.12 * np.linalg.norm(point.gradient)


def test_overflowing_potentials_are_refused() -> None:
    p = module.problem(np.ones((2, 2)), 1e-3, None, None)
    assert module._evaluate(p, np.full(4, 1.0)) is None


def test_density_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\], got 1.5"):
        sinkhorn_newton(np.ones((2, 2)), 1.0, density=1.5)


@pytest.mark.parametrize("solve", [sinkhorn, sinkhorn_newton])
@pytest.mark.parametrize("tolerance", [0.0, float("nan")])
def test_a_tolerance_nobody_can_reach_is_refused(solve, tolerance):
    with pytest.raises(ValueError, match="tolerance must be positive"):
        solve(np.eye(3), 1.0, tolerance=tolerance)
