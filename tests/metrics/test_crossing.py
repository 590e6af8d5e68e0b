"""Laws of the crossing: pi / 4, zero without crossing, and the identities that tie it to cost, straightness and velocity error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fmbench.metrics.crossing import crossing, pair_losses
from fmbench.metrics.flow import reference_solve
from fmbench.metrics.velocity_error import velocity_errors
from fmbench.noise import generator


def independent_pairs(flow, order: int = 6) -> tuple[Tensor, Tensor, np.ndarray]:
    """Gauss-Hermite nodes of the independent coupling and their weights: exact for the quadratic polynomials met here."""
    points, weights = np.polynomial.hermite_e.hermegauss(order)
    z, w = torch.from_numpy(points), weights / weights.sum()
    x0, x1 = torch.meshgrid(z, flow.mean + flow.std * z, indexing="ij")
    return x0.reshape(-1, 1), x1.reshape(-1, 1), np.outer(w, w).ravel()


def test_independent_gaussians_cross_by_a_quarter_of_pi(gaussian_flow) -> None:
    x0, x1, weights = independent_pairs(gaussian_flow)
    assert weights @ pair_losses(gaussian_flow.velocity, x0, x1) == pytest.approx(math.pi / 4, abs=1e-10)


def test_monte_carlo_interval_covers_it(gaussian_flow) -> None:
    estimate = crossing(gaussian_flow.velocity, *gaussian_flow.pairs(4000, seed=1))
    assert estimate.ci[0] < math.pi / 4 < estimate.ci[1]
    assert estimate.ci[1] - estimate.ci[0] < 0.1
    assert estimate.n == 4000


def test_monotone_coupling_does_not_cross(gaussian_flow) -> None:
    x0 = torch.randn((50, 1, 2, 2), generator=generator(2), dtype=torch.float64)
    assert crossing(gaussian_flow.straight, x0, gaussian_flow.endpoint(x0)).value == pytest.approx(0, abs=1e-20)


def test_saved_cost_is_straightness_plus_crossing(gaussian_flow) -> None:
    x0, x1, weights = independent_pairs(gaussian_flow)
    solve = reference_solve(gaussian_flow.velocity, x0, 100)
    saved = weights @ ((x1 - x0).square().sum(dim=1).numpy() - solve.cost)
    assert saved == pytest.approx(1, abs=1e-8)
    v = weights @ pair_losses(gaussian_flow.velocity, x0, x1)
    assert weights @ solve.straightness + v == pytest.approx(saved, abs=1e-7)


def test_loss_of_another_field_is_crossing_plus_its_error(gaussian_flow) -> None:
    wrong = lambda x, t: 0.8 * gaussian_flow.velocity(x, t) + 0.3 * x - t[:, None]  # noqa: E731
    x0, x1, weights = independent_pairs(gaussian_flow)
    loss = weights @ pair_losses(wrong, x0, x1)
    error = weights @ velocity_errors(wrong, gaussian_flow.velocity, x0, 100).error
    assert error > 0.1
    assert loss == pytest.approx(math.pi / 4 + error, abs=1e-6)


def test_dimensions_add_up(gaussian_flow) -> None:
    x0, x1 = gaussian_flow.pairs(24, seed=3)
    one = pair_losses(gaussian_flow.velocity, x0, x1)
    four = pair_losses(gaussian_flow.velocity, x0.reshape(6, 1, 2, 2), x1.reshape(6, 1, 2, 2))
    np.testing.assert_allclose(four, one.reshape(6, 4).sum(axis=1), rtol=1e-5)


def test_unpaired_points_are_named(gaussian_flow) -> None:
    with pytest.raises(ValueError, match=r"pairs, got shapes \(3, 1\) and \(4, 1\)"):
        crossing(gaussian_flow.velocity, torch.zeros(3, 1), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="nodes must be at least 1, got 0"):
        crossing(gaussian_flow.velocity, torch.zeros(3, 1), torch.zeros(3, 1), nodes=0)
