"""The closed forms the report relies on, against other routes to the same number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import sqrtm
from scipy.special import ndtri

from fmbench.registry import TASKS
from fmbench.validation import flow_fields as fields
from fmbench.validation.gaussians import cubic_kernel_mean, entropic_gaussian_cost, gaussian_pair, whitened
from fmbench.validation.transport import product_map


@pytest.mark.parametrize("d", [2, 16])
def test_w2_of_a_pair_agrees_with_the_matrix_square_root(d: int) -> None:
    pair = gaussian_pair(d)
    assert np.abs(pair.cov_a @ pair.cov_b - pair.cov_b @ pair.cov_a).max() > 0.05  # they do not commute
    root = np.asarray(sqrtm(pair.cov_a @ pair.cov_b)).real
    shift = pair.mean_a - pair.mean_b
    assert pair.w2_squared == pytest.approx(shift @ shift + np.trace(pair.cov_a + pair.cov_b - 2 * root), rel=1e-9)


def test_whitened_points_have_exact_moments() -> None:
    x = whitened(50, 8, np.random.default_rng(0), ddof=1)
    assert np.abs(x.mean(axis=0)).max() < 1e-14
    assert np.abs(np.cov(x.T) - np.eye(8)).max() < 1e-13


def test_cubic_kernel_mean_agrees_with_gauss_hermite_quadrature() -> None:
    # One dimension: the kernel is a polynomial, so a few nodes integrate it exactly.
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    weights = weights / weights.sum()
    x, y = 0.7 + 1.3 * nodes, -0.4 + 0.6 * nodes
    expected = weights @ (np.outer(x, y) + 1) ** 3 @ weights
    got = cubic_kernel_mean(np.array([0.7]), np.array([[1.69]]), np.array([-0.4]), np.array([[0.36]]))
    assert got == pytest.approx(expected, rel=1e-12)


def test_entropic_cost_between_w2_and_the_independent_coupling() -> None:
    shift, a, b = 0.8, 1.0, 1.7
    assert entropic_gaussian_cost(shift, a, b, 1e-7) == pytest.approx(shift**2 + (a - b) ** 2, abs=1e-5)
    assert entropic_gaussian_cost(shift, a, b, 1e6) == pytest.approx(shift**2 + a**2 + b**2, rel=1e-5)
    values = [entropic_gaussian_cost(shift, a, b, epsilon) for epsilon in (0.1, 1.0, 10.0)]
    assert values == sorted(values)


@pytest.mark.parametrize(("s", "energy"), [(0.5, 0.4646018366), (2.0, 1.8584073464)])
def test_flow_constants(s: float, energy: float) -> None:
    assert fields.energy(s) == pytest.approx(energy, abs=1e-10)
    assert fields.energy(s) == pytest.approx(fields.straightness(s) + (1 - s) ** 2)
    assert fields.crossing(s) == pytest.approx(1 + s**2 - fields.energy(s))
    # Acceleration sigma'' by differences of sigma.
    sigma = lambda t: math.hypot(1 - t, s * t)  # noqa: E731
    bend = lambda t, h=1e-3: (sigma(t + h) - 2 * sigma(t) + sigma(t - h)) / h**2  # noqa: E731
    assert fields.curvature(s) == pytest.approx(quad(lambda t: bend(t) ** 2, 0, 1)[0], rel=1e-4)


def test_product_map_is_monotone_and_reaches_the_target() -> None:
    n = 4000
    levels = ndtri((np.arange(n) + 0.5) / n)
    x = np.stack([levels, levels], axis=1)
    moved = product_map(x, modes=2)
    assert (np.diff(moved, axis=0) > 0).all()
    task = TASKS.resolve("mixture-2d")()
    assert ((moved - x) ** 2).sum(axis=1).mean() == pytest.approx(task.w2_squared[0], rel=2e-3)
