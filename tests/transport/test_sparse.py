import numpy as np
import pytest

from fmbench.transport.distances import squared_distances
from fmbench.transport.sparse import _SparseSimplex, sparse_ot


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cost(n: int = 20, m: int = 25) -> np.ndarray:
    return squared_distances(rng().normal(size=(n, 2)), rng(1).normal(size=(m, 2)) + 0.3)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
def test_without_an_active_constraint_it_is_quadratic_transport(gamma: float) -> None:
    import ot

    a, b = np.full(20, 1 / 20), np.full(25, 1 / 25)
    plan = ot.smooth.smooth_ot_semi_dual(a, b, cost(), gamma, "l2", stopThr=1e-15, numItermax=10_000)
    for k in (15, 20, 40):
        found = sparse_ot(cost(), k, gamma)
        np.testing.assert_allclose(found.plan, plan, atol=1e-6)
        assert found.row_violation < 1e-5


@pytest.mark.slow
def test_columns_are_always_exact_and_sparse() -> None:
    b = rng(3).random(25) + 0.2
    for k in (1, 2, 3, 5):
        for gamma in (0.1, 10.0):
            found = sparse_ot(cost(), k, gamma, b=b)
            assert found.nonzeros <= k
            assert ((found.plan > 0).sum(axis=0) <= k).all()
            assert found.plan.min() >= 0.0
            np.testing.assert_allclose(found.plan.sum(axis=0), b / b.sum(), atol=1e-12)


def test_missed_row_marginals_are_reported() -> None:
    # 20 equal senders cannot serve 25 equal receivers that each have one sender only.
    found = sparse_ot(cost(), 1, 1.0)
    assert found.row_violation > 0.1
    assert found.row_violation == pytest.approx(np.abs(found.plan.sum(axis=1) - 1 / 20).sum(), rel=1e-12)
    assert found.column_violation < 1e-12
    assert sparse_ot(cost(), 10, 1.0).row_violation < 1e-5


def test_small_gamma_approaches_exact_transport() -> None:
    import ot

    exact = ot.emd2([], [], cost())
    gaps = [sparse_ot(cost(), 20, gamma).transport_cost - exact for gamma in (30.0, 3.0, 0.1)]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-5
    assert gaps[2] < 1e-4


@pytest.mark.parametrize("k", [1, 3, 8])
def test_conjugate_is_the_best_of_all_supports(k: int) -> None:
    from itertools import combinations

    import ot

    scores, b, gamma = rng(5).normal(size=(8, 4)), rng(6).random(4) + 0.5, 0.8
    value, shares = _SparseSimplex(k, gamma).max_Omega(scores, b)
    for j in range(4):
        best = -np.inf
        for support in combinations(range(8), k):
            part = scores[list(support), j]
            t = ot.utils.proj_simplex(part / (gamma * b[j]))
            best = max(best, part @ t - 0.5 * gamma * b[j] * (t @ t))
        assert value[j] == pytest.approx(best, rel=1e-12)
        assert (shares[:, j] > 0).sum() <= k
    # The maximiser is the gradient of the value.
    step = 1e-6
    bumped, _ = _SparseSimplex(k, gamma).max_Omega(scores + step * np.eye(8)[:, :1], b)
    np.testing.assert_allclose((bumped - value) / step, shares[0], atol=1e-5)


def test_it_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sparse_ot(cost(), 3, 1.0)
    assert capsys.readouterr().out == ""


def test_unusable_input_is_named() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        sparse_ot(cost(), 0, 1.0)
    with pytest.raises(ValueError, match="gamma must be positive and finite, got -1"):
        sparse_ot(cost(), 2, -1.0)
