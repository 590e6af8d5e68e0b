"""Laws of the Lipschitz estimate: exact for linear fields, full Jacobians elsewhere, changing directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fmbench.metrics.lipschitz import largest_singular_value, lipschitz, local_lipschitz
from fmbench.noise import generator
from fmbench.solvers.base import cosine_grid


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_spectral_norm_of_a_linear_field(shape: tuple[int, ...]) -> None:
    matrix = normal(6, 6, seed=1)  # not symmetric: its eigenvalues are not its singular values
    field = lambda x, t: (x.flatten(1) @ matrix.T).reshape(x.shape)  # noqa: E731
    truth = np.linalg.svd(matrix.numpy(), compute_uv=False)[0]
    assert abs(np.linalg.eigvals(matrix.numpy())).max() < 0.9 * truth
    got = local_lipschitz(field, normal(3, *shape), 2, generator(2), iterations=40)
    assert got == pytest.approx(np.full(3, truth), rel=1e-6)


def test_curved_field_against_its_full_jacobian() -> None:
    matrix = normal(5, 5, seed=3)
    field = lambda x, t: torch.tanh(x @ matrix.T)  # noqa: E731
    x = normal(4, 5, seed=4)
    got, u = largest_singular_value(field, x, torch.zeros(4), normal(4, 5, seed=5), iterations=200)
    for row in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda z: field(z[None], None)[0], x[row])
        _, values, vectors = torch.linalg.svd(jacobian)
        assert got[row] == pytest.approx(float(values[0]), rel=1e-6)
        assert abs(float(vectors[0] @ u[row])) == pytest.approx(1, abs=1e-4)


def test_a_direction_that_takes_over_later_is_found() -> None:
    # The first axis dominates until it is followed exactly; the second one is far steeper at the end.
    field = lambda x, t: x * torch.stack([torch.full_like(t, 1.0), 4 * t**8], dim=1)  # noqa: E731
    assert local_lipschitz(field, normal(5, 2), 20, generator(6)) == pytest.approx(np.full(5, 4.0), rel=1e-6)


def test_gaussian_flow(gaussian_flow) -> None:
    # Slope (t s^2 - (1-t)) / ((1-t)^2 + t^2 s^2): largest in modulus inside (0, 1), the same for every trajectory.
    t = cosine_grid(40).numpy()
    truth = np.abs((t / 4 - (1 - t)) / ((1 - t) ** 2 + t**2 / 4)).max()
    estimate = lipschitz(gaussian_flow.velocity, normal(10, 1), 40, generator(7), iterations=2)
    assert estimate.value == pytest.approx(truth, rel=1e-9)
    assert estimate.details["max"] == pytest.approx(truth, rel=1e-9)


def test_mean_and_max_differ_where_the_field_does() -> None:
    # v = x^2 / 2 has slope x; backward in size from x0 < 0 it is steepest where it starts.
    x0 = torch.tensor([[-1.0], [-3.0]], dtype=torch.float64)
    estimate = lipschitz(lambda x, t: x.square() / 2, x0, 10, generator(8))
    assert estimate.value == pytest.approx(2)
    assert estimate.details["max"] == pytest.approx(3)
    assert math.isfinite(estimate.ci[0])


def test_constant_fields_and_fields_without_gradient() -> None:
    assert (local_lipschitz(lambda x, t: torch.ones_like(x), normal(3, 2), 2, generator(9)) == 0).all()
    with pytest.raises(ValueError, match="switches gradients off inside"):
        local_lipschitz(torch.no_grad()(lambda x, t: 2 * x), normal(3, 2), 2, generator(9))
