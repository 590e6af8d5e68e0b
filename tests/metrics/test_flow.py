"""Flow metrics against the closed forms of the Gaussian flow N(0,1) -> N(0,s^2) with independent coupling."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, simpson

from fmbench.evaluation.scoring import attempt
from fmbench.metrics.evidence import Evidence, of_flow
from fmbench.metrics.flow import (
    clenshaw_curtis,
    concatenate,
    curvature,
    kinetic_energy,
    normalized_path_energy,
    path_energy,
    reference_grid,
    reference_solve,
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
    context = of_flow(None, None, 0, reference_solve(gaussian_velocity(0.5), x, 64), w2_squared=(0.25, 0.0))
    npe = normalized_path_energy(context)
    assert npe.ci[0] < 0.858407 < npe.ci[1]
    straight = reference_solve(lambda x, t: torch.ones_like(x), x, 4)
    assert normalized_path_energy(of_flow(None, None, 0, straight, w2_squared=(1.0, 0.0))).value < 1e-6


def test_what_cannot_be_measured_has_a_reason():
    nothing = of_flow(None, None)
    for name in ("straightness", "path_energy", "curvature", "normalized_path_energy", "transport_cost"):
        estimate = attempt(name, [nothing])
        assert estimate.value is None
        assert estimate.reason.startswith("needs ")


@pytest.mark.parametrize("steps", [1, 2, 5, 16, 100])
def test_the_grid_integrates_polynomials_of_its_degree_with_positive_weights(steps):
    t, weights = clenshaw_curtis(steps)
    assert (t[0], t[-1], len(t)) == (0, 1, steps + 1)
    assert bool((t.diff() > 0).all()) and bool((weights > 0).all())
    for degree in (0, 1, steps - 1, steps):
        assert float((weights * t**degree).sum()) == pytest.approx(1 / (degree + 1), abs=1e-14)
    assert clenshaw_curtis(2 * steps)[0][::2].tolist() == pytest.approx(t.tolist(), abs=1e-15)
    with pytest.raises(ValueError, match="even number of steps, got 5"):
        reference_grid(5)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("width", [0.05, 0.02, 0.01])
def test_a_layer_at_either_end_is_seen(late, width):
    """A velocity that lives within ``width`` of t = 0 or t = 1 only; 32 equal steps put a node or two into it."""

    def layer(x, t):
        return torch.ones_like(x) * torch.exp(-(1 - t if late else t) / width)[:, None]

    solve = reference_solve(layer, torch.zeros(2, 1, dtype=torch.float64), 32)
    mean, energy = width * (1 - math.exp(-1 / width)), width / 2 * (1 - math.exp(-2 / width))
    np.testing.assert_allclose(solve.energy, energy, rtol=2e-3)
    np.testing.assert_allclose(solve.straightness, energy - mean**2, rtol=2e-3)
    # Simpson's rule on as many equal steps, to show that the nodes are what it takes.
    equal = torch.linspace(0, 1, 33, dtype=torch.float64)
    squares = layer(torch.zeros(33, 1), equal).square()[:, 0]
    if width < 0.05:
        assert simpson(squares, x=equal) > energy * 1.02


def test_intervals_cover_what_a_coarse_solve_gets_wrong():
    """Trajectories that are all alike have no spread: what is left of the interval is the error of the solve."""

    def bump(x, t):
        return torch.ones_like(x) * torch.exp(-(((t - 0.5) / 0.05) ** 2))[:, None]

    exact = quad(lambda t: math.exp(-2 * ((t - 0.5) / 0.05) ** 2), 0, 1, points=[0.5])[0]
    mean = quad(lambda t: math.exp(-(((t - 0.5) / 0.05) ** 2)), 0, 1, points=[0.5])[0]
    solve = reference_solve(bump, torch.zeros(3, 1, dtype=torch.float64), 16)
    context = of_flow(None, None, 0, solve)
    for metric, value in ((path_energy, exact), (kinetic_energy, exact / 2), (straightness, exact - mean**2)):
        estimate = metric(context)
        assert estimate.value != pytest.approx(value, rel=1e-2)
        assert estimate.ci[0] <= value <= estimate.ci[1]


@pytest.mark.parametrize("steps", [8, 16])
def test_curvature_is_a_lower_bound_that_rises_with_the_nodes(steps):
    solves = [reference_solve(gaussian_velocity(0.5), torch.ones(3, 1), n) for n in (steps, 2 * steps)]
    bend = quad(lambda t: 0.5**4 / ((1 - t) ** 2 + t**2 * 0.5**2) ** 3, 0, 1)[0]
    fine, finer = (curvature(of_flow(None, None, 0, z)) for z in solves)
    assert fine.value < finer.value < bend
    assert fine.ci[0] < fine.value < bend < fine.ci[1]
    np.testing.assert_allclose(solves[1].coarse_curvature, solves[0].curvature, rtol=2e-2)


def test_truncation_gap_of_euler_on_the_gaussian_flow():
    z = np.array([[1.0], [-2.0]])
    # Euler with one step sends everything to 0, the exact flow to z/2.
    gap = truncation_gap(0 * z, 0.5 * z)
    assert gap.value == pytest.approx(math.sqrt((0.25 + 1.0) / 2))
    assert truncation_gap(z, z).value == 0
    with pytest.raises(ValueError, match="pairs"):
        truncation_gap(z, z[:1])


@pytest.mark.parametrize("speed", [0.1, 1 / 3, 1e3])
def test_straight_flows_have_a_value_inside_their_interval(speed):
    """PE - 2 chord . mean + cost is 0 up to rounding on either side of it, and a square is never below."""
    x0 = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    solve = reference_solve(lambda x, t: torch.full_like(x, speed) + 0.1 * x0, x0, 16)
    context = of_flow(None, None, 0, solve, w2_squared=(1.0, 0.0))
    assert (solve.straightness >= 0).all()
    for metric in (straightness, path_energy, kinetic_energy, curvature, transport_cost, normalized_path_energy):
        estimate, least = metric(context), -1 if metric is normalized_path_energy else 0
        assert least <= estimate.ci[0] <= estimate.value <= estimate.ci[1] < math.inf


def test_the_normalised_energy_of_one_trajectory_is_normalised_too():
    solve = reference_solve(gaussian_velocity(0.5), torch.ones(1, 2), 16)
    got = normalized_path_energy(of_flow(None, None, 0, solve, w2_squared=(0.25, 0.0)))
    assert got.value == pytest.approx((float(solve.energy[0]) - 0.25) / 0.25)
    assert got.ci is None


def test_reasons_say_what_is_the_case():
    solve = reference_solve(gaussian_velocity(0.5), torch.ones(4, 2), 8)
    assert "at distance 0" in normalized_path_energy(of_flow(None, None, 0, solve, w2_squared=(0.0, 0.0))).reason
    unknown = attempt("normalized_path_energy", [of_flow(None, None, 0, solve, marks=["vector"])])
    assert "not known" in unknown.reason
    without = attempt("transport_cost", [Evidence({}, who="this map of one step")])
    assert without.reason == (
        "needs a velocity field v(x, t), whose trajectories can be solved, or a map between two times: this map of one step has none"
    )
