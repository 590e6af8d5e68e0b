"""Laws of the likelihood: Gaussians, mixtures, linear fields, unbiased probes, and bits per dimension of known models."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.stats import norm
from torch import Tensor

from fmbench.methods.oracle import Oracle
from fmbench.metrics.likelihood import (
    bits_per_dimension,
    dequantise,
    log_likelihood,
    nll_estimate,
    standard_normal_log_density,
)
from fmbench.noise import generator
from fmbench.registry import TASKS
from fmbench.tasks.mixture import MixtureVelocity

MATRIX = torch.tensor([[0.3, 1.0, 0.0], [-0.4, 0.2, 0.6], [0.5, 0.0, -0.7]], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def linear(x: Tensor, t: Tensor) -> Tensor:
    return x @ MATRIX.to(x).T


def linear_log_density(x1: Tensor) -> np.ndarray:
    """N(0, I) pushed by exp(A): N(0, exp(A) exp(A)^T)."""
    root = expm(MATRIX.numpy())
    x0 = np.linalg.solve(root, x1.numpy().T).T
    return norm.logpdf(x0).sum(axis=1) - np.log(np.linalg.det(root))


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4, 4)])
def test_gaussian_of_any_shape(gaussian_flow, shape: tuple[int, ...]) -> None:
    x1 = gaussian_flow.mean + gaussian_flow.std * normal(6, *shape)
    expected = norm.logpdf(x1.flatten(1).numpy(), gaussian_flow.mean, gaussian_flow.std).sum(axis=1)
    got = log_likelihood(gaussian_flow.velocity, x1, steps=20)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_fourth_order_in_the_step(gaussian_flow) -> None:
    x1 = gaussian_flow.mean + gaussian_flow.std * normal(20, 1)
    truth = norm.logpdf(x1[:, 0].numpy(), gaussian_flow.mean, gaussian_flow.std)
    coarse, fine = (np.abs(log_likelihood(gaussian_flow.velocity, x1, n) - truth).mean() for n in (10, 20))
    assert math.log2(coarse / fine) == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize(("name", "steps", "n"), [("mixture-2d", 60, 12), ("mixture-16d", 50, 6)])
def test_mixtures(name: str, steps: int, n: int) -> None:
    task = TASKS.resolve(name)()
    exact = MixtureVelocity(task.source_mixture, task.target_mixture)
    x1 = task.target.sample(n, generator(1)).double()
    truth = task.target_mixture.log_prob(x1).numpy()
    np.testing.assert_allclose(log_likelihood(exact, x1, steps), truth, atol=1e-4)


@pytest.mark.slow
def test_a_solver_cannot_resolve_points() -> None:
    """Why the oracle of a finite set has no likelihood: what the solve says of held-out data is far from its closed form."""
    task = TASKS.resolve("digits")()
    x1 = task.heldout.sample(2, generator(1)).flatten(1)
    truth = task.target_mixture.log_prob(x1.double()).mean()
    got = log_likelihood(MixtureVelocity(task.source_mixture, task.target_mixture), x1, 16).mean()
    assert got > truth / 2
    for name, resolved in (("digits", False), ("mixture-2d", True)):
        assert Oracle(Oracle.build_net(TASKS.resolve(name)(), {}, conditional=False)).has_density is resolved


def test_the_source_density_is_used() -> None:
    # From a mixture to itself by standing still, and shifted by a constant velocity.
    mixture = TASKS.resolve("mixture-2d")().target_mixture
    x1 = mixture.sample(5, generator(2)).double()
    shift = torch.tensor([1.0, -2.0], dtype=torch.float64)
    still = log_likelihood(lambda x, t: torch.zeros_like(x), x1, 2, mixture.log_prob)
    moved = log_likelihood(lambda x, t: shift.expand_as(x), x1 + shift, 2, mixture.log_prob)
    np.testing.assert_allclose(still, mixture.log_prob(x1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(moved, still, rtol=1e-12)


def test_linear_field_in_both_precisions() -> None:
    x1 = normal(7, 3)
    np.testing.assert_allclose(log_likelihood(linear, x1, 20), linear_log_density(x1), atol=1e-6)
    np.testing.assert_allclose(log_likelihood(linear, x1.float(), 20), linear_log_density(x1), atol=1e-4)


def test_hutchinson_is_unbiased_with_probes_fixed_along_the_trajectory() -> None:
    n = 4000
    point = normal(1, 3)
    truth = float(linear_log_density(point)[0])
    # The Jacobian is constant, so the noise is that of one probe; new probes at every stage would average it away.
    symmetric = (MATRIX + MATRIX.T) / 2
    variance = float(2 * (symmetric.square().sum() - symmetric.diagonal().square().sum()))
    for probes in (1, 4):
        got = log_likelihood(linear, point.expand(n, 3), 8, trace="hutchinson", probes=probes, generator=generator(3))
        assert got.mean() == pytest.approx(truth, abs=4 * math.sqrt(variance / probes / n))
        assert got.var(ddof=1) == pytest.approx(variance / probes, rel=0.15)


def test_hutchinson_on_images_agrees_with_the_exact_trace() -> None:
    kernel = 0.3 * normal(1, 1, 3, 3, seed=4)
    field = lambda x, t: torch.tanh(torch.nn.functional.conv2d(x, kernel, padding=1))  # noqa: E731
    image = normal(1, 1, 4, 4, seed=5)
    exact = log_likelihood(field, image, 4)[0]
    many = log_likelihood(field, image.expand(2000, 1, 4, 4), 4, trace="hutchinson", generator=generator(6))
    error = many.std(ddof=1) / math.sqrt(2000)
    assert 0 < error < 0.05
    assert many.mean() == pytest.approx(exact, abs=4 * error)


def test_probes_come_from_the_generator() -> None:
    x1 = normal(4, 3)
    one, same, other = (
        log_likelihood(linear, x1, 2, trace="hutchinson", generator=generator(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def uniform_log_density(half: float) -> Callable[[Tensor], Tensor]:
    def log_density(x: Tensor) -> Tensor:
        outside = (x.flatten(1).abs() > half).any(dim=1)
        return torch.full((len(x),), -x[0].numel() * math.log(2 * half), dtype=x.dtype).masked_fill(outside, -math.inf)

    return log_density


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_uniform_model_needs_log2_levels_bits(levels: int) -> None:
    # U(-1, 1) as it is, and as the stretched image of U(-1/2, 1/2) under x' = x log 2.
    grey = torch.randint(levels, (5, 1, 4, 4), generator=generator(7))
    x1 = dequantise(grey, levels, -1, 1, generator(8))
    still = log_likelihood(lambda x, t: torch.zeros_like(x), x1, 1, uniform_log_density(1.0))
    stretched = log_likelihood(lambda x, t: math.log(2) * x, 0.999 * x1, 20, uniform_log_density(0.5))
    for log_density, tolerance in ((still, 1e-12), (stretched, 1e-6)):
        bits = bits_per_dimension(-log_density, 16, levels, -1, 1)
        np.testing.assert_allclose(bits, math.log2(levels), rtol=tolerance)


def test_bits_do_not_depend_on_the_scale_of_the_data() -> None:
    # The same model in other units: densities divide by 5^D, bins grow by 5.
    nll = np.array([3.0, 40.0])
    scaled = nll + 9 * math.log(5)
    np.testing.assert_allclose(bits_per_dimension(scaled, 9, 256, -5, 5), bits_per_dimension(nll, 9, 256, -1, 1))


def test_bits_bound_the_entropy_of_a_discrete_source() -> None:
    # A density constant on every bin loses nothing: the bits are the cross entropy of the levels, here their own entropy.
    probability = np.array([0.5, 0.125, 0.125, 0.25])
    grey = torch.multinomial(torch.from_numpy(probability), 40_000, replacement=True, generator=generator(9))
    x = dequantise(grey[:, None], 4, -1, 3, generator(10)).numpy()[:, 0]
    density = probability[np.floor((x + 1) / 4 * 4).astype(int)] / 1.0
    bits = bits_per_dimension(-np.log(density), 1, 4, -1, 3)
    assert bits.mean() == pytest.approx(1.75, abs=4 * bits.std() / 200)


def test_dequantised_levels_are_uniform_in_their_bins() -> None:
    grey = torch.arange(17).repeat(500)
    x = dequantise(grey, 17, -1 - 1 / 16, 1 + 1 / 16, generator(11)).double()
    offset = (x - (grey / 8 - 1).double()) * 8  # centred bins: half a level on each side of k / 8 - 1
    assert offset.abs().max() < 0.5 + 1e-5
    assert offset.mean() == pytest.approx(0, abs=4 / math.sqrt(12 * len(x)))
    assert offset.var() == pytest.approx(1 / 12, rel=0.05)
    assert torch.equal(dequantise(grey, 17, 0, 1, generator(1)), dequantise(grey.float(), 17, 0, 1, generator(1)))


def test_estimate_is_the_mean_negative_log_density() -> None:
    estimate = nll_estimate(np.array([-1.0, -3.0]), trace="exact")
    assert (estimate.value, estimate.n, dict(estimate.details)) == (2.0, 2, {"trace": "exact"})


def test_standard_normal_density() -> None:
    x = normal(3, 2, 2)
    np.testing.assert_allclose(standard_normal_log_density(x), norm.logpdf(x.flatten(1)).sum(axis=1))


def test_unusable_input_is_named() -> None:
    x1 = normal(3, 3)
    with pytest.raises(ValueError, match="trace must be one of exact, hutchinson, got 'hutch'"):
        log_likelihood(linear, x1, 4, trace="hutch")
    with pytest.raises(ValueError, match="needs a generator"):
        log_likelihood(linear, x1, 4, trace="hutchinson")
    with pytest.raises(ValueError, match="at least one probe"):
        log_likelihood(linear, x1, 4, trace="hutchinson", probes=0, generator=generator(0))
    with pytest.raises(ValueError, match="1 of 3 data points"):
        log_likelihood(linear, torch.where(x1 == x1[1, 1], math.nan, x1), 4)
    with pytest.raises(ValueError, match="backward solve diverged for 3 of 3"):
        log_likelihood(lambda x, t: 1e300 * x**3, x1, 2)
    with pytest.raises(ValueError, match=r"whole grey levels from 0 to 255, got values from -1 to 0\.5"):
        dequantise(torch.tensor([-1.0, 0.5]), 256, -1, 1, generator(0))
    with pytest.raises(ValueError, match="whole grey levels from 0 to 16"):
        dequantise(torch.tensor([17]), 17, -1, 1, generator(0))
    with pytest.raises(ValueError, match="levels >= 2 and lo < hi"):
        dequantise(torch.tensor([0]), 4, 1, -1, generator(0))
    with pytest.raises(ValueError, match="levels=1"):
        bits_per_dimension(np.zeros(1), 3, 1, -1, 1)
    with pytest.raises(ValueError, match="dim must be at least 1"):
        bits_per_dimension(np.zeros(1), 0, 256, -1, 1)
