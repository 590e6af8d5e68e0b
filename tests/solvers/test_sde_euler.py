"""The stochastic sampler on fields that are known exactly: same draws, same samples; same marginals, whatever the diffusion."""

from __future__ import annotations

import pytest
import torch

import fmbench
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.solvers.sde_euler import SDEEuler
from fmbench.tasks.base import StandardNormal
from fmbench.zoo.model import generate

MEAN, STD = 2.0, 0.5


def velocity(x, t):
    """Of N(0, 1) to N(MEAN, STD^2), independent: affine in x (a one-component mixture)."""
    s = t[:, None]
    variance = (1 - s) ** 2 + (s * STD) ** 2
    return MEAN + (s * STD**2 - (1 - s)) / variance * (x - s * MEAN)


def moments(diffusion: float, steps: int, n: int = 40_000) -> tuple[float, float]:
    draws = Draws(3, 0, n, StandardNormal((1,)).sample)
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    x = SDEEuler(diffusion).solve(velocity, draws.start(), grid, draws)
    return float(x.mean()), float(x.std())


@pytest.mark.slow
@pytest.mark.parametrize("diffusion", [0.0, 0.3, 1.0, 3.0])
def test_marginals_do_not_depend_on_the_diffusion(diffusion: float) -> None:
    mean, std = moments(diffusion, 200)
    assert mean == pytest.approx(MEAN, abs=4 * STD / 200 + 0.02 * diffusion / 3)
    assert std == pytest.approx(STD, abs=0.01 + 0.01 * diffusion / 3)


@pytest.mark.parametrize(("diffusion", "steps"), [(0.5, 5), (2.0, 10), (4.0, 20)])
def test_few_steps_have_the_moments_of_the_recursion(diffusion: float, steps: int) -> None:
    """The drift is affine, so mean and variance of Euler and Maruyama's chain follow from two numbers per step, read off the field."""
    mean, variance, h = 0.0, 1.0, 1 / steps
    for k in range(steps):
        s = k * h
        zero, one = (float(velocity(torch.tensor([[x]]), torch.tensor([s]))) for x in (0.0, 1.0))
        slope = one - zero + diffusion * (s * (one - zero) - 1)
        offset = zero + diffusion * s * zero
        mean, variance = (
            mean + h * (slope * mean + offset),
            (1 + h * slope) ** 2 * variance + 2 * diffusion * (1 - s) * h,
        )
    found = moments(diffusion, steps)
    assert found[0] == pytest.approx(mean, abs=5 * variance**0.5 / 200)
    assert found[1] == pytest.approx(variance**0.5, rel=5 / 280)


def test_no_diffusion_is_explicit_euler() -> None:
    model = fmbench.load("gaussian-8gaussians/oracle")
    noise = model.draws(0, 50, 0)
    plain = generate(model.method, noise, Sampler("euler", 7)).samples
    still = generate(model.method, noise, Sampler("sde-euler", 7, options={"diffusion": 0.0})).samples
    assert torch.allclose(plain, still, atol=1e-6)


def test_a_sample_depends_on_its_seed_and_row_only() -> None:
    model, sampler = fmbench.load("gaussian-8gaussians/oracle"), Sampler("sde-euler", 5)
    whole = generate(model.method, model.draws(0, 600, 1), sampler, batch_size=256)
    assert whole.evaluations.network == 600 * 5
    for size in (600, 100, 7):
        again = generate(model.method, model.draws(0, 600, 1), sampler, batch_size=size).samples
        assert torch.allclose(again, whole.samples, atol=1e-5)
    part = generate(model.method, model.draws(300, 310, 1), sampler).samples
    assert torch.allclose(part, whole.samples[300:310], atol=1e-5)
    other = generate(model.method, model.draws(0, 600, 2), sampler).samples
    assert not torch.allclose(other, whole.samples, atol=0.1)


def test_a_flow_without_a_score_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="sde-euler needs the score of its marginals: a standard normal source"):
        fmbench.load("gaussian-8gaussians/ot-cfm").sample(3, solver="sde-euler", steps=4)
    with pytest.raises(ValueError, match="sde-euler needs the score"):
        fmbench.load("8gaussians-moons/oracle").sample(3, solver="sde-euler", steps=4)
    with pytest.raises(ValueError, match="diffusion must be 0 or more"):
        SDEEuler(-1.0)
