"""Laws of exact transport: closed forms, permutations, metric axioms, what the certificate catches."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from fmbench.transport import exact
from fmbench.transport.distances import squared_distances
from fmbench.transport.exact import same_distribution_floor, wasserstein2

SOLVERS = ("simplex", "assignment")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("solver", SOLVERS)
def test_in_one_dimension_it_matches_sorted_points(solver: str) -> None:
    x, y = rng().normal(size=(2, 200))
    expected = np.linalg.norm(np.sort(x) - np.sort(y)) / math.sqrt(200)
    assert wasserstein2(x[:, None], y[:, None], solver) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_gradient_of_a_convex_function_is_optimal(solver: str) -> None:
    # y = A x with A positive definite is a Monge map, so the hidden pairing is the optimal one.
    r = rng(1)
    x = r.normal(size=(300, 5))
    root = r.normal(size=(5, 5))
    y = x @ (root @ root.T + 0.1 * np.eye(5)) + 3.0
    expected = math.sqrt(((x - y) ** 2).sum(axis=1).mean())
    assert wasserstein2(x, y[r.permutation(300)], solver) == pytest.approx(expected, rel=1e-13)


@pytest.mark.slow
def test_it_converges_where_the_default_pivot_limit_stops_early() -> None:
    import ot

    r = rng()
    x = r.normal(size=(2048, 8))
    y = 3.0 * np.sign(x) * np.abs(x) ** 1.5 + 1.0  # increasing in every coordinate: optimal
    shuffled = y[r.permutation(2048)]
    expected = ((x - y) ** 2).sum(axis=1).mean()
    assert wasserstein2(x, shuffled, "simplex") ** 2 == pytest.approx(expected, rel=1e-13)
    with pytest.warns(UserWarning, match="numItermax"):
        default = ot.emd2([], [], squared_distances(x, shuffled))
    assert default > 1.001 * expected


def test_stopping_before_the_optimum_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "ITERATIONS", 10)
    with pytest.raises(RuntimeError, match="300 x 300 points did not reach the optimum"):
        wasserstein2(rng().normal(size=(300, 3)), rng(1).normal(size=(300, 3)))


@pytest.mark.parametrize("dim", [2, 70])
def test_translation_gives_the_length_of_the_shift(dim: int) -> None:
    x = rng().normal(size=(150, dim))
    shift = rng(1).normal(size=dim)
    assert wasserstein2(x, x + shift) == pytest.approx(float(np.linalg.norm(shift)), rel=1e-13)


@pytest.mark.parametrize("dim", [2, 70])
def test_metric_axioms_scaling_and_symmetries(dim: int) -> None:
    r = rng(2)
    x, y, z = (r.normal(size=(n, dim)) + c for n, c in ((60, 0.0), (90, 1.0), (75, -0.5)))
    xy = wasserstein2(x, y)
    assert xy > 0
    assert wasserstein2(x, x[r.permutation(60)]) == 0.0
    assert wasserstein2(y, x) == pytest.approx(xy, rel=1e-12)
    assert wasserstein2(x, z) <= xy + wasserstein2(y, z)
    assert wasserstein2(3.0 * x, 3.0 * y) == pytest.approx(3.0 * xy, rel=1e-12)
    assert wasserstein2(x[r.permutation(60)], y[r.permutation(90)]) == pytest.approx(xy, rel=1e-12)
    rotation = np.linalg.qr(r.normal(size=(dim, dim)))[0]
    assert wasserstein2(x @ rotation, y @ rotation) == pytest.approx(xy, rel=1e-12)
    # Every point three times is the same measure, at another size.
    assert wasserstein2(np.repeat(x, 3, axis=0), y) == pytest.approx(xy, rel=1e-12)


@pytest.mark.parametrize("dim", [2, 100])
def test_far_from_the_origin_no_digits_are_lost(dim: int) -> None:
    x, y = rng().normal(size=(2, 80, dim))
    assert wasserstein2(x + 1e6, y + 1e6) == pytest.approx(wasserstein2(x, y), rel=1e-8)


def test_unequal_sizes_against_a_plan_worked_out_by_hand() -> None:
    # Masses 1/2 at 0 and 1 against 1/3 at 0, 1 and 3: 1/3 stay, 1/6 from 0 to 1, 1/6 stays at 1, 1/3 from 1 to 3.
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [1.0], [3.0]])
    assert wasserstein2(x, y) ** 2 == pytest.approx(1 / 6 + 4 / 3, rel=1e-14)


def test_gaussian_closed_form_is_the_limit() -> None:
    # W2^2 = |m|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2); commuting covariances make it |m|^2 + sum (s_a - s_b)^2.
    truth = math.sqrt(4.0 + (1.0 - 2.0) ** 2 + (1.0 - 0.5) ** 2)
    errors = []
    for n in (40, 640):
        pairs = [(rng(s).normal(size=(n, 2)), rng(100 + s).normal(size=(n, 2))) for s in range(10)]
        values = np.array([wasserstein2(x, y * [2.0, 0.5] + [2.0, 0.0]) for x, y in pairs])
        errors.append(math.sqrt(((values - truth) ** 2).mean()))
    assert errors[1] < min(0.15, 0.5 * errors[0])


def test_all_solvers_agree_and_match_pot() -> None:
    import ot

    for dim, scale in ((3, 1.0), (12, 1.0), (12, 0.01), (80, 1.0)):  # a small cloud: its points share few nearest ones
        x, y = rng(3).normal(size=(2, 256, dim))
        x *= scale
        reference = math.sqrt(ot.emd2([], [], ot.dist(x, y), numItermax=10**8))
        for solver in ("auto", *SOLVERS):
            assert wasserstein2(x, y, solver) == pytest.approx(reference, rel=1e-12)


def test_the_solver_is_chosen_by_sizes_dimension_and_crowding(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(n: int, m: int, dim: int, scale: float = 1.0) -> Any:
        x, y = scale * rng(1).normal(size=(n, dim)), rng(2).normal(size=(m, dim))
        return exact._fastest(squared_distances(x, y), dim)

    monkeypatch.setattr(exact, "_lap", lambda: None)
    assert chosen(200, 200, 2) is chosen(200, 199, 16) is chosen(200, 200, 16, 0.01) is exact.simplex
    assert chosen(200, 200, 16) is exact.assignment
    assert chosen(200, 200, 80) is exact.assignment
    monkeypatch.setattr(exact, "_lap", lambda: object())
    assert chosen(200, 200, 16) is exact.assignment
    assert chosen(200, 200, 80, 0.01).keywords == {"permutation": exact._lap_permutation}


def test_floor_is_the_distance_of_two_fresh_sets_and_shrinks() -> None:
    def normal(n: int, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(size=(n, 1, 2))

    floor = same_distribution_floor(normal, 64, [rng(s) for s in range(8)])
    larger = same_distribution_floor(normal, 512, [rng(s) for s in range(8)])
    assert floor.value is not None
    assert larger.value is not None
    assert floor.ci is not None
    assert floor.ci[0] < floor.value < floor.ci[1]
    assert 0.0 < larger.value < 0.6 * floor.value
    again = rng(0)
    first, second = again.normal(size=(64, 2)), again.normal(size=(64, 2))
    assert floor.details["per_seed"][0] == wasserstein2(first, second)
    with pytest.raises(ValueError, match="at least one generator"):
        same_distribution_floor(normal, 64, [])


def test_floor_takes_the_targets_of_tasks() -> None:
    import torch

    from fmbench.tasks.base import StandardNormal

    floor = same_distribution_floor(StandardNormal((1, 2, 2)).sample, 50, [torch.Generator().manual_seed(0)])
    assert floor.value is not None
    assert 0.5 < floor.value < 2.5
    assert floor.ci is None


def test_unusable_input_is_named() -> None:
    x = rng().normal(size=(5, 2))
    with pytest.raises(ValueError, match="got 'sinkhorn'"):
        wasserstein2(x, x, "sinkhorn")
    with pytest.raises(ValueError, match="equal size, got 5 and 4"):
        wasserstein2(x, x[:4], "assignment")
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        wasserstein2(x, np.where(np.arange(10).reshape(5, 2) == 3, np.nan, x))


def least_over_permutations(x: np.ndarray, y: np.ndarray) -> float:
    return min(math.sqrt(((x - y[list(p)]) ** 2).sum() / len(x)) for p in itertools.permutations(range(len(x))))


@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
@pytest.mark.parametrize("dim", [2, 66])
@pytest.mark.parametrize("far", [1e6, 1e8, 1e12])
def test_a_far_point_on_both_sides_leaves_the_others_optimal(solver: str, dim: int, far: float) -> None:
    for seed in range(8):
        x, y = rng(seed).normal(size=(2, 5, dim))
        x[-1, 1] = y[2, 1] = far
        assert wasserstein2(x, y, solver) == pytest.approx(least_over_permutations(x, y), rel=1e-9)


@pytest.mark.parametrize("far", [1e8, 1e12])
def test_unequal_sizes_beside_a_far_point(far: float) -> None:
    # Every point three times is the same measure, so the assignment of equal sizes is the truth.
    for seed in range(5):
        x, y = rng(seed).normal(size=(2, 5, 2))
        x[-1, 1] = y[-1, 1] = far
        truth = least_over_permutations(x, y)
        assert wasserstein2(np.repeat(x, 3, axis=0), y) == pytest.approx(truth, rel=1e-9)
        assert wasserstein2(np.repeat(x, 3, axis=0), np.repeat(y, 2, axis=0)) == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-140, 1e-20, 1e-7, 1e-3, 1e6, 1e140])
def test_it_scales_with_the_unit_however_small_or_large(scale: float) -> None:
    # POT takes costs below about 1e-14 for zero, whatever the largest is.
    x, y = rng(4).normal(size=(2, 30, 2))
    assert wasserstein2(scale * x, scale * y) == pytest.approx(scale * wasserstein2(x, y), rel=1e-9)
    assert wasserstein2(scale * x, scale * y[:20]) == pytest.approx(scale * wasserstein2(x, y[:20]), rel=1e-9)


def test_ordinary_plans_are_those_of_the_simplex_itself() -> None:
    for seed in range(10):
        x, y = rng(seed).normal(size=(2, 60, 3))
        cost = squared_distances(x, y)
        plain, certified = exact._network_simplex(cost), exact.simplex(cost)
        assert np.array_equal(plain.i, certified.i) and np.array_equal(plain.j, certified.j)
        assert exact.duality_gap(cost, certified) <= exact.GAP


def test_a_plan_that_is_not_optimal_has_a_gap() -> None:
    x, y = rng(6).normal(size=(2, 40, 2))
    cost = squared_distances(x, y)
    best = exact.simplex(cost)
    order = best.partners
    order[[0, 1]] = order[[1, 0]]
    worse = exact.Plan(np.arange(40), order, np.full(40, 1 / 40), best.potentials)
    true_gap = 1 - best.cost(cost) / worse.cost(cost)
    assert exact.duality_gap(cost, worse) == pytest.approx(true_gap, rel=1e-6)
    assert true_gap > exact.GAP


def test_potentials_are_those_of_the_costs_after_a_cut() -> None:
    x, y = rng(7).normal(size=(2, 20, 2))
    x[-1, 1] = y[-1, 1] = 1e9
    cost = squared_distances(x, y)
    plan = exact.simplex(cost)
    assert plan.potentials is not None
    f, g = plan.potentials
    assert (f[:, None] + g - cost).max() < 1e-9
    assert f.mean() + g.mean() == pytest.approx(plan.cost(cost), rel=1e-9)


def test_no_certificate_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = squared_distances(*rng(8).normal(size=(2, 10, 2)))
    identity = exact.Plan(np.arange(10), np.arange(10), np.full(10, 0.1), (np.zeros(10), np.zeros(10)))
    monkeypatch.setattr(exact, "_network_simplex", lambda cost: identity)
    with pytest.raises(RuntimeError, match=r"no exact plan of 10 x 10 points.*far from all others") as error:
        exact.simplex(cost)
    assert "\n" not in str(error.value)
