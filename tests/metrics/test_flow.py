"""Flow metrics against the closed forms of the Gaussian flow N(0,1) -> N(0,s^2) with independent coupling."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from fmbench.metrics.flow import (
    FlowContext,
    concatenate,
    curvature,
    normalized_path_energy,
    path_energy,
    reference_solve,
    simpson_weights,
    straightness,
    transport_cost,
)
from fmbench.metrics.truncation import truncation_gap


def gaussian_velocity(s):
    """v(x, t) = sigma'/sigma x with sigma^2 = (1-t)^2 + t^2 s^2; the trajectory from z is sigma_t z."""

    def velocity(x, t):
        variance = (1 - t) ** 2 + t**2 * s**2
        return x * ((t * s**2 - (1 - t)) / variance)[:, None]

    return velocity


# path energy and straightness per unit of z^2, by quadrature of sigma'^2 in closed form.
EXACT = {0.5: (0.4646018366, 0.2146018366), 2.0: (1.8584073464, 0.8584073464)}


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_gaussian_closed_forms(s):
    z = torch.tensor([[1.0], [-2.0]])
    solve = reference_solve(gaussian_velocity(s), z, 64)
    energy, straight = EXACT[s]
    bend = quad(lambda t: s**4 / ((1 - t) ** 2 + t**2 * s**2) ** 3, 0, 1)[0]
    scale = np.array([1.0, 4.0])
    np.testing.assert_allclose(solve.energy, energy * scale, rtol=1e-5)
    np.testing.assert_allclose(solve.straightness, straight * scale, rtol=1e-4)
    np.testing.assert_allclose(solve.cost, (1 - s) ** 2 * scale, rtol=1e-5)
    np.testing.assert_allclose(solve.curvature, bend * scale, rtol=5e-3)
    np.testing.assert_allclose(solve.stop, s * z, rtol=1e-5)


def test_path_energy_is_straightness_plus_cost():
    solve = reference_solve(gaussian_velocity(0.5), torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), 64)
    np.testing.assert_allclose(solve.energy, solve.straightness + solve.cost, rtol=1e-5)
    assert solve.residual < 1e-5


def test_the_residual_shows_a_solve_that_is_too_coarse():
    def stiff(x, t):
        return -60 * (x - torch.cos(3 * t)[:, None])

    x = torch.ones(4, 1)
    assert reference_solve(stiff, x, 32).residual > 100 * reference_solve(stiff, x, 512).residual


def test_constant_velocity_is_perfectly_straight():
    solve = reference_solve(
        lambda x, t: torch.ones_like(x) * 3.0, torch.randn(10, 2, generator=torch.Generator().manual_seed(0)), 8
    )
    np.testing.assert_allclose(solve.straightness, 0, atol=1e-5)
    np.testing.assert_allclose(solve.curvature, 0, atol=1e-9)
    np.testing.assert_allclose(solve.energy, 18, rtol=1e-6)


def test_a_rotation_is_curved_however_little_it_transports():
    def rotate(x, t):
        return 2 * math.pi * torch.stack([-x[:, 1], x[:, 0]], dim=1)

    solve = reference_solve(rotate, torch.tensor([[1.0, 0.0]]), 200)
    np.testing.assert_allclose(solve.cost, 0, atol=1e-6)  # a full turn comes back
    np.testing.assert_allclose(solve.straightness, (2 * math.pi) ** 2, rtol=1e-4)
    np.testing.assert_allclose(solve.curvature, (2 * math.pi) ** 4, rtol=1e-3)


def test_images_sum_over_pixels():
    flat = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
    velocity = gaussian_velocity(0.5)

    def on_images(x, t):
        return velocity(x.flatten(1), t).reshape(x.shape)

    a, b = reference_solve(velocity, flat, 16), reference_solve(on_images, flat.reshape(6, 3, 2, 2), 16)
    np.testing.assert_allclose(a.straightness, b.straightness, rtol=1e-6)


def test_chunks_join_to_the_whole():
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
    whole = reference_solve(gaussian_velocity(2.0), x, 16)
    joined = concatenate([reference_solve(gaussian_velocity(2.0), part, 16) for part in x.split(4)])
    np.testing.assert_array_equal(whole.energy, joined.energy)
    assert torch.equal(whole.stop, joined.stop)


def test_normalized_path_energy_of_optimal_transport_is_zero_and_of_the_gaussian_flow_known():
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(2))
    context = FlowContext(solve := reference_solve(gaussian_velocity(0.5), x, 64), solve.cost, (0.25, 0.0))
    npe = normalized_path_energy(context)
    assert npe.ci[0] < 0.858407 < npe.ci[1]
    straight = reference_solve(lambda x, t: torch.ones_like(x), x, 4)
    assert normalized_path_energy(FlowContext(straight, straight.cost, (1.0, 0.0))).value < 1e-6


def test_what_cannot_be_measured_has_a_reason():
    nothing = FlowContext(None, None, None)
    for metric in (straightness, path_energy, curvature, normalized_path_energy, transport_cost):
        estimate = metric(nothing)
        assert estimate.value is None
        assert estimate.reason


def test_simpson_integrates_cubics_exactly_and_needs_an_even_number():
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    assert float((simpson_weights(6) * t**3).sum()) == pytest.approx(0.25, abs=1e-15)
    with pytest.raises(ValueError, match="even"):
        simpson_weights(5)


def test_truncation_gap_of_euler_on_the_gaussian_flow():
    z = np.array([[1.0], [-2.0]])
    # Euler with one step sends everything to 0, the exact flow to z/2.
    gap = truncation_gap(0 * z, 0.5 * z)
    assert gap.value == pytest.approx(math.sqrt((0.25 + 1.0) / 2))
    assert truncation_gap(z, z).value == 0
    with pytest.raises(ValueError, match="pairs"):
        truncation_gap(z, z[:1])
