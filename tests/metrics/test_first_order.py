"""Laws of first-orderness: zero for first-order paths of either schedule, closed form of the Gaussian flow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from fmbench.metrics.first_order import first_orderness, noise_variance
from fmbench.noise import generator
from fmbench.paths.path import linear_schedule, trigonometric_schedule
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(0), dtype=torch.float64)


def turning(x: Tensor, t: Tensor) -> Tensor:
    """x = (cos(pi t / 2) + sin(pi t / 2) / 2) z: a monotone pairing along the trigonometric path."""
    angle = (math.pi / 2 * t).reshape(-1, *([1] * (x.ndim - 1)))
    return math.pi / 2 * (angle.cos() / 2 - angle.sin()) / (angle.cos() + angle.sin() / 2) * x


def test_straight_constant_speed_is_first_order(gaussian_flow) -> None:
    x0 = noise(10, 1, 3, 3)
    assert noise_variance(gaussian_flow.straight, x0, 20) == pytest.approx(np.zeros(10), abs=1e-12)
    # The same lines at a changing speed are not: v = 2 t c gives E = x0 + (t^2 - 2 t^2) c, of variance 4 c^2 / 45.
    late = noise_variance(lambda x, t: 2 * t[:, None] * torch.full_like(x, 3.0), noise(4, 2), 100)
    assert late == pytest.approx(np.full(4, 9 * 4 / 45), rel=1e-6)


def test_first_order_depends_on_the_schedule() -> None:
    x0 = noise(8, 2)
    assert noise_variance(turning, x0, 40, trigonometric_schedule) == pytest.approx(np.zeros(8), abs=1e-9)
    assert noise_variance(turning, x0, 40, linear_schedule).min() > 1e-4 * float(x0.square().mean(dim=1).min())


def test_gaussian_to_itself_in_closed_form() -> None:
    # E_t = (1 - t) / sigma_t z with sigma_t^2 = (1-t)^2 + t^2.
    still = GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0))
    x0 = noise(6, 2)
    truth = 0.5 - math.asinh(1) ** 2 / 2
    got = noise_variance(MixtureVelocity(still, still), x0, 40)
    assert got == pytest.approx(truth * x0.square().mean(dim=1).numpy(), rel=1e-5)


def test_gaussian_flow_in_closed_form(gaussian_flow) -> None:
    noise_t = lambda t: (1 - t) / math.sqrt((1 - t) ** 2 + (gaussian_flow.std * t) ** 2)  # noqa: E731
    truth = quad(lambda t: noise_t(t) ** 2, 0, 1)[0] - quad(noise_t, 0, 1)[0] ** 2
    estimate = first_orderness(gaussian_flow.velocity, noise(3000, 1), 40)
    assert estimate.ci[0] < truth < estimate.ci[1]
    assert estimate.ci[1] - estimate.ci[0] < 0.2 * truth
    one = noise_variance(gaussian_flow.velocity, torch.ones(1, 1, dtype=torch.float64), 40)
    assert one[0] == pytest.approx(truth, rel=1e-5)


def test_odd_steps_are_refused(gaussian_flow) -> None:
    with pytest.raises(ValueError, match="even number of steps, got 7"):
        first_orderness(gaussian_flow.velocity, noise(2, 1), 7)
