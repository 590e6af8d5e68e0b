"""Laws of the round-trip error: closed form of Euler, convergence orders, exact fields."""

from __future__ import annotations

import math

import pytest
import torch

from fmbench.metrics.inversion import round_trip_error, round_trip_squared_errors
from fmbench.noise import generator
from fmbench.solvers.euler import Euler
from fmbench.solvers.heun import Heun
from fmbench.solvers.rk4 import RK4


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0), dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 5])
def test_euler_on_a_linear_field_in_closed_form(steps: int) -> None:
    # Each way multiplies by (1 +- a h)^N.
    a, x0 = 1.5, noise(50, 1, 2, 2)
    factor = (1 - (a / steps) ** 2) ** steps
    expected = abs(1 - factor) * math.sqrt(float(x0.square().mean()))
    estimate = round_trip_error(lambda x, t: a * x, x0, steps, Euler())
    assert estimate.value == pytest.approx(expected, rel=1e-12)
    assert dict(estimate.details) == {"solver": "euler", "steps": steps}


def test_the_way_back_reverses_time() -> None:
    # v = t: Euler climbs by the left sums of t and comes down by the right sums; they differ by h (1 - 0) in all.
    estimate = round_trip_error(lambda x, t: t[:, None].expand_as(x), noise(9, 3), 8, Euler())
    assert estimate.value == pytest.approx(1 / 8, rel=1e-12)


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 3), (RK4(), 5)])
def test_order(gaussian_flow, solver, order: int) -> None:
    coarse, fine = (round_trip_error(gaussian_flow.velocity, noise(20, 1), n, solver).value for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


def test_straight_constant_flows_return_exactly() -> None:
    estimate = round_trip_error(lambda x, t: torch.full_like(x, 2.0), noise(10, 3), 4)
    assert estimate.value == pytest.approx(0, abs=1e-15)
    assert estimate.details["solver"] == "rk4"


def test_interval_covers_the_limit_and_errors_are_per_sample() -> None:
    x0 = noise(2000, 3)
    each = round_trip_squared_errors(lambda x, t: x, x0, 3, Euler())
    assert each == pytest.approx(((1 - (1 - 1 / 9) ** 3) ** 2 * x0.square().mean(dim=1)).numpy(), rel=1e-10)
    estimate = round_trip_error(lambda x, t: x, x0, 3, Euler())
    truth = 1 - (1 - 1 / 9) ** 3  # E|x0|^2 / D = 1
    assert estimate.ci[0] < truth < estimate.ci[1]
    assert estimate.ci[1] - estimate.ci[0] < 0.1 * truth
