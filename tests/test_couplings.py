"""Laws of the minibatch couplings and of the weights of W-CFM."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import Tensor

from fmbench.noise import generator
from fmbench.paths.couplings import (
    costs,
    entropic_pairs,
    entropic_plan,
    exact_pairs,
    gibbs_weights,
)
from fmbench.transport.exact import simplex


def batch(n: int, dim: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = generator(seed)
    return torch.randn((n, dim), generator=random), 2 * torch.randn((n, dim), generator=random) + 1


def total(x0: Tensor, x1: Tensor, i: Tensor, j: Tensor) -> float:
    return float((x0[i] - x1[j]).double().square().sum())


def test_squared_distances_on_images() -> None:
    x0, x1 = batch(5, dim=4)
    found = costs(x0.reshape(5, 1, 2, 2), x1[:3].reshape(3, 1, 2, 2))
    assert found.shape == (5, 3)
    assert found[4, 2] == pytest.approx(float((x0[4].double() - x1[2].double()).square().sum()), rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 64, 256])
def test_exact_pairs_are_an_optimal_permutation(n: int) -> None:
    x0, x1 = batch(n)
    i, j = exact_pairs(x0, x1)
    assert i.tolist() == list(range(n))
    assert sorted(j.tolist()) == list(range(n))
    best = total(x0, x1, i, j)
    assert best <= total(x0, x1, i, i) + 1e-9
    random = generator(1)
    assert all(best <= total(x0, x1, i, torch.randperm(n, generator=random)) + 1e-9 for _ in range(20))


def test_exact_pairs_stay_a_permutation_with_ties() -> None:
    x0 = torch.tensor([[0.0], [0.0], [1.0], [1.0]]).repeat(16, 1)
    _, j = exact_pairs(x0, x0.flip(0))
    assert sorted(j.tolist()) == list(range(64))
    assert torch.equal(x0.flip(0)[j], x0)


def test_exact_pairs_match_all_permutations() -> None:
    x0, x1 = batch(6, dim=3, seed=2)
    i, j = exact_pairs(x0, x1)
    every = min(total(x0, x1, i, torch.tensor(p)) for p in itertools.permutations(range(6)))
    assert total(x0, x1, i, j) == pytest.approx(every, rel=1e-9)


def test_exact_pairs_are_those_of_the_simplex_in_every_dimension() -> None:
    for dim in (2, 8, 16, 64):
        for seed in range(20):
            x0, x1 = batch(48, dim, seed)
            assert exact_pairs(x0, x1)[1].tolist() == simplex(costs(x0, x1)).partners.tolist()


def paired(x0: Tensor, x1: Tensor, labels: Tensor, j: Tensor) -> list[bytes]:
    return [*(row.numpy().tobytes() for row in x1[j]), labels[j].numpy().tobytes(), x0.numpy().tobytes()]


@pytest.mark.parametrize("tie", ["drawn twice", "another label", "signed zero", "source"])
def test_equal_points_leave_the_batch_that_the_simplex_would_make(tie: str) -> None:
    """A data set drawn with replacement: which of two equal points is taken changes no pair, unless they differ in label or sign of zero."""
    random, permutations = generator(5), 0
    for seed in range(30):
        x0, data = batch(64, 16, seed)
        index = torch.randint(32, (64,), generator=random)
        x1, labels = data[index], index % 10
        if tie == "another label":
            labels = torch.arange(64)
        if tie == "signed zero":
            x1[:, 0] = torch.where(torch.arange(64) % 2 == 0, 0.0, -0.0)
        if tie == "source":
            x0[:8] = x0[8:16]
        _, j = exact_pairs(x0, x1, labels)
        former = torch.from_numpy(simplex(costs(x0, x1)).partners)
        assert paired(x0, x1, labels, j) == paired(x0, x1, labels, former)
        permutations += j.tolist() != former.tolist()
    # Only what is drawn twice is left to the faster solver, whose choice among equal points is another one.
    assert (permutations > 0) == (tie == "drawn twice")


def test_exact_pairs_of_undefined_points_are_an_error() -> None:
    for dim in (2, 16):
        x0, x1 = batch(6, dim)
        x1[3, 1] = float("nan")
        with pytest.raises(RuntimeError, match="did not reach the optimum"):
            exact_pairs(x0, x1)


@pytest.mark.parametrize("far", [1e4, 1e8, 1e12])
def test_exact_pairs_are_right_beside_a_far_point_on_both_sides(far: float) -> None:
    for seed in range(20):
        x0, x1 = batch(5, seed=seed)
        x0[-1, 1] = x1[0, 1] = far
        i, j = exact_pairs(x0, x1)
        every = min(total(x0, x1, i, torch.tensor(p)) for p in itertools.permutations(range(5)))
        assert total(x0, x1, i, j) == pytest.approx(every, rel=1e-9)


def test_exact_pairs_sort_in_one_dimension() -> None:
    x0, x1 = batch(200, dim=1, seed=3)
    i, j = exact_pairs(x0, x1)
    order = x0[i, 0].argsort()
    assert torch.equal(x1[j, 0][order], x1[:, 0].sort().values)


def test_exact_pairs_refuse_unequal_batches() -> None:
    x0, x1 = batch(4)
    with pytest.raises(ValueError, match="equal size, got 4 and 3"):
        exact_pairs(x0, x1[:3])


@pytest.mark.parametrize("regularisation", [0.05, 0.5, 5.0, 500.0])
def test_entropic_plan_has_uniform_marginals(regularisation: float) -> None:
    plan = entropic_plan(costs(*batch(40)), regularisation)
    assert (plan >= 0).all()
    assert np.abs(plan.sum(axis=0) * 40 - 1).max() < 0.02
    assert np.abs(plan.sum(axis=1) * 40 - 1).max() < 0.02


def test_entropic_plan_is_uniform_for_large_regularisation() -> None:
    plan = entropic_plan(costs(*batch(30)), 1e7)
    assert np.abs(plan * 900 - 1).max() < 1e-4


def test_entropic_plan_is_exact_for_small_regularisation() -> None:
    x0 = torch.arange(12.0)[:, None]
    x1 = x0[torch.randperm(12, generator=generator(4))] + 0.2
    i, j = exact_pairs(x0, x1)
    for scale in (1.0, 100.0):  # the second one is far below what the plain kernel can hold
        plan = entropic_plan(costs(scale * x0, scale * x1), 0.05)
        assert np.abs(12 * plan[i, j] - 1).max() < 1e-3
    assert torch.equal(entropic_pairs(x0, x1, 0.05, generator(0))[1], j)


def test_entropic_cost_grows_with_regularisation() -> None:
    x0, x1 = batch(50, seed=5)
    distances = costs(x0, x1)
    paid = [float((entropic_plan(distances, r) * distances).sum()) for r in (0.2, 1.0, 5.0, 100.0)]
    assert paid == sorted(paid)
    assert total(x0, x1, *exact_pairs(x0, x1)) / 50 <= paid[0] * (1 + 1e-3)
    assert paid[-1] <= distances.mean() * (1 + 1e-6)


def test_entropic_plan_between_gaussians_has_the_closed_form_covariance() -> None:
    """cov = (sqrt(4 a^2 b^2 + eps^2 / 4) - eps / 2) / 2 with a = 1, b = .5, eps = .8; the grids are 400 equal-mass quantiles."""
    quantile = ndtri((np.arange(400) + 0.5) / 400)
    quantile /= quantile.std()
    x, y = quantile, 0.5 * quantile
    plan = entropic_plan((x[:, None] - y[None]) ** 2, 0.8)
    assert x @ plan @ y == pytest.approx(0.33852, abs=1e-3)


@pytest.mark.slow
def test_entropic_pairs_follow_the_plan() -> None:
    x0, x1 = batch(6, seed=6)
    plan = entropic_plan(costs(x0, x1), 4.0)
    random = generator(7)
    counts = np.zeros((6, 6))
    for _ in range(4000):
        i, j = entropic_pairs(x0, x1, 4.0, random)
        counts[i, j] += 1
        if counts.sum() >= 6 * 400:
            break
    expected = plan / plan.sum(axis=1, keepdims=True) * 400
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()


@pytest.mark.parametrize("regularisation", [0.0, -1.0, float("nan")])
def test_regularisation_must_be_positive(regularisation: float) -> None:
    with pytest.raises(ValueError, match=f"regularisation must be positive, got {regularisation}"):
        entropic_plan(np.ones((2, 2)), regularisation)


@pytest.mark.slow
@pytest.mark.parametrize("regularisation", [1e-3, 1e-9])
def test_unconverged_sinkhorn_is_an_error_not_a_wrong_plan(regularisation: float) -> None:
    """Sinkhorn's last half-step satisfies the row marginals whatever happens: the columns tell whether it converged."""
    with pytest.raises(ValueError, match=f"did not converge .* regularisation {regularisation:g}; raise sigma"):
        entropic_plan(costs(*batch(60, seed=8)), regularisation)


def test_undefined_costs_are_an_error() -> None:
    with pytest.raises(ValueError, match="did not converge"):
        entropic_plan(np.full((3, 3), np.nan), 1.0)


def test_gibbs_weights_become_equal_for_large_epsilon() -> None:
    x0, x1 = batch(100)
    assert torch.allclose(gibbs_weights(x0, x1, 1e8), torch.ones(100), atol=1e-6)


def test_gibbs_weights_are_scale_and_translation_invariant_with_mean_one() -> None:
    x0, x1 = batch(100)
    weights = gibbs_weights(x0, x1, 0.7)
    assert float(weights.mean()) == pytest.approx(1, rel=1e-5)
    assert torch.allclose(gibbs_weights(30 * x0, 30 * x1, 21.0), weights, rtol=1e-4)
    assert torch.allclose(gibbs_weights(x0 + 5, x1 + 5, 0.7), weights, rtol=1e-3)
    assert torch.allclose(gibbs_weights(x0.reshape(100, 1, 2, 1), x1.reshape(100, 1, 2, 1), 0.7), weights)


def test_gibbs_weights_fall_by_e_for_every_epsilon_of_distance() -> None:
    x1 = torch.tensor([[0.0, 0.0], [0.6, 0.8], [3.0, 4.0]])  # at 0, 1 and 5: the norm, not its square
    weights = gibbs_weights(torch.zeros(3, 2), x1, 0.5)
    assert float(weights[0] / weights[1]) == pytest.approx(math.exp(2), rel=1e-5)
    assert float(weights[1] / weights[2]) == pytest.approx(math.exp(8), rel=1e-4)


def test_gibbs_weights_survive_distances_that_underflow() -> None:
    weights = gibbs_weights(torch.zeros(4, 2), torch.full((4, 2), 1e4), 1.0)
    assert torch.allclose(weights, torch.ones(4))


def test_weighted_pairs_of_gaussians_against_quadrature() -> None:
    """N(0, 1) and N(2, .5^2), cost |x - y|, epsilon 1.5: moments of q ~ w mu nu and ESS / n, by a 2-D integral."""
    epsilon = 1.5
    x = np.linspace(-8, 8, 1601)[:, None]
    y = np.linspace(-2, 6, 1601)[None]
    base = np.exp(-(x**2) / 2 - (y - 2) ** 2 / 0.5)
    tilt = np.exp(-np.abs(x - y) / epsilon)
    q = base * tilt / (base * tilt).sum()
    exact = [(q * x).sum(), (q * y).sum(), (q * x * y).sum(), (q * x * x).sum()]
    efficiency = (base * tilt).sum() ** 2 / ((base * tilt**2).sum() * base.sum())

    random = generator(9)
    x0 = torch.randn((400_000, 1), generator=random)
    x1 = 2 + 0.5 * torch.randn((400_000, 1), generator=random)
    w = gibbs_weights(x0, x1, epsilon)[:, None]
    found = [float((w * v).mean()) for v in (x0, x1, x0 * x1, x0 * x0)]
    assert found == pytest.approx(exact, abs=0.015)
    assert exact[0] > 0.3  # the tilt: sources near the data are favoured
    assert float(w.sum().square() / w.square().sum()) / 400_000 == pytest.approx(efficiency, rel=0.01)


@pytest.mark.parametrize("epsilon", [0.0, -2.0])
def test_epsilon_must_be_positive(epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon must be positive, got {epsilon}"):
        gibbs_weights(*batch(3), epsilon)
