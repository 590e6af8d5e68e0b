"""Laws of the velocity error: zero, constants, scalings, the zero field, and the closed form of a wrong field of the same map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from fmbench.metrics.flow import reference_solve
from fmbench.metrics.velocity_error import relative_velocity_error, velocity_error, velocity_errors
from fmbench.noise import generator


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(0), dtype=torch.float64)


def test_exact_shifted_and_scaled_fields(gaussian_flow) -> None:
    exact, x0 = gaussian_flow.velocity, noise(30, 1, 2, 2)
    assert velocity_error(velocity_errors(exact, exact, x0, 10)).value == 0
    shifted = velocity_errors(lambda x, t: exact(x, t) + 0.5, exact, x0, 10)
    assert shifted.error == pytest.approx(np.full(30, 4 * 0.25), rel=1e-12)
    scaled = relative_velocity_error(velocity_errors(lambda x, t: 1.3 * exact(x, t), exact, x0, 10))
    assert scaled.value == pytest.approx(0.09, rel=1e-12)


def test_the_zero_field_misses_all_of_the_path_energy(gaussian_flow) -> None:
    x0 = noise(30, 1)
    still = velocity_errors(lambda x, t: torch.zeros_like(x), gaussian_flow.velocity, x0, 40)
    np.testing.assert_allclose(still.error, reference_solve(gaussian_flow.velocity, x0, 40).energy, rtol=1e-12)
    assert relative_velocity_error(still).value == pytest.approx(1, rel=1e-12)


def test_straight_field_against_the_marginal_one_in_closed_form(gaussian_flow) -> None:
    # Same end points, other speeds: the difference along the oracle is (sigma' + sigma / (2 - t)) z, whoever moves.
    sigma = lambda t: math.sqrt((1 - t) ** 2 + t**2 / 4)  # noqa: E731
    slope = lambda t: (t / 4 - (1 - t)) / sigma(t)  # noqa: E731
    truth = quad(lambda t: (slope(t) + sigma(t) / (2 - t)) ** 2, 0, 1)[0]
    z = noise(2000, 1)
    errors = velocity_errors(gaussian_flow.straight, gaussian_flow.velocity, z, 40)
    np.testing.assert_allclose(errors.error, truth * z[:, 0].square().numpy(), rtol=1e-4)
    estimate = velocity_error(errors)
    assert estimate.ci[0] < truth < estimate.ci[1]
    assert estimate.n == 2000
    ratio = relative_velocity_error(errors)
    energy = 4 + quad(lambda t: slope(t) ** 2, 0, 1)[0]
    assert ratio.ci[0] < truth / energy < ratio.ci[1]


def test_a_field_at_rest_has_no_relative_error() -> None:
    still = lambda x, t: torch.zeros_like(x)  # noqa: E731
    estimate = relative_velocity_error(velocity_errors(still, still, noise(5, 2), 4))
    assert estimate.value is None and "zero everywhere" in estimate.reason
