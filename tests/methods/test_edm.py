"""EDM: the preconditioned denoiser against closed forms, and its sampler against exact samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fmbench.flows.flow import as_draws
from fmbench.methods.base import Batch
from fmbench.methods.edm import EDM
from fmbench.noise import generator
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity

TARGET = GaussianMixture(
    torch.tensor([[-2.0, 1.0], [2.0, -1.0]]), torch.tensor([[0.4, 0.9], [0.7, 0.3]]), torch.tensor([0.3, 0.7])
)


class Zero(nn.Module):
    def forward(self, x: Tensor, t: Tensor, *, r: object = None, cond: object = None) -> Tensor:
        return torch.zeros_like(x)


class Exact(nn.Module):
    """The F that makes D exact for a mixture: E[x1 | y] by Bayes' rule, unscaled as the preconditioning demands."""

    def __init__(self, method: EDM) -> None:
        super().__init__()
        self.__dict__["method"] = method

    def forward(self, x: Tensor, t: Tensor, *, r: object = None, cond: object = None) -> Tensor:
        m = self.method
        sigma = m.least * (m.most / m.least) ** t.double()
        skip, out, scale, _ = m._scales(sigma)
        y = x.double() / scale[:, None]
        variance = TARGET.stds**2 + sigma[:, None, None] ** 2
        off = y[:, None] - TARGET.means
        weight = torch.softmax(TARGET.weights.log() - 0.5 * (off**2 / variance + variance.log()).sum(-1), 1)
        data = (weight[..., None] * (TARGET.means + TARGET.stds**2 * off / variance)).sum(1)
        return ((data - skip[:, None] * y) / out[:, None]).to(x)


def exact() -> EDM:
    method = EDM(Zero(), sigma_data=1.5)
    method.net = Exact(method)
    return method


def test_a_network_that_says_nothing_is_the_exact_denoiser_of_a_gaussian() -> None:
    """Data N(0, sd^2): v = D - E with D = c_skip y, in closed form ((t S^2 - (1 - t)) / ((1 - t)^2 + t^2 S^2)) x."""
    method, x = EDM(Zero(), sigma_data=0.5), torch.randn((6, 3), generator=generator(1), dtype=torch.float64)
    for t in (0.05, 0.3, 0.7, 0.95):
        truth = (t * 0.25 - (1 - t)) / ((1 - t) ** 2 + t**2 * 0.25) * x
        got = method.velocity(x, torch.full((6,), t, dtype=torch.float64))
        assert torch.allclose(got, truth, rtol=1e-10)


def test_the_exact_denoiser_of_a_mixture_is_its_velocity() -> None:
    x = torch.randn((32, 2), generator=generator(2), dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        at = torch.full((32,), t, dtype=torch.float64)
        truth = MixtureVelocity(GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0)), TARGET)(x, at)
        assert torch.allclose(exact().velocity(x, at), truth, rtol=1e-6, atol=1e-6)


def test_heun_on_the_grid_reproduces_the_samples_and_converges_at_second_order() -> None:
    start = torch.randn((64, 2), generator=generator(3), dtype=torch.float64)
    method = exact()
    fine = method.sample(as_draws(start), Sampler("heun", 400))
    errors = {
        (solver, n): float((method.sample(as_draws(start), Sampler(solver, n)) - fine).norm(dim=1).mean())
        for solver in ("euler", "heun")
        for n in (20, 40)
    }
    assert errors["heun", 40] < 0.35 * errors["heun", 20] and errors["euler", 40] < 0.65 * errors["euler", 20]
    assert errors["heun", 20] < 0.3 * errors["euler", 20]
    drawn = method.sample(as_draws(torch.randn((20_000, 2), generator=generator(4))), Sampler("heun", 30)).double()
    truth = TARGET.sample(20_000, generator(5)).double()
    assert torch.allclose(drawn.mean(0), truth.mean(0), atol=0.06)
    assert torch.allclose(torch.cov(drawn.T), torch.cov(truth.T), atol=0.12)


def test_its_loss_has_unit_scale_and_is_least_for_the_exact_denoiser() -> None:
    """With data N(0, sd^2) the network's target has unit variance whatever the level, and the zero network is optimal."""
    method, random = EDM(Zero(), sigma_data=0.5), generator(6)
    batch = Batch(*(c * torch.randn((20_000, 4), generator=random) for c in (1.0, 0.5)))
    assert float(method.loss(batch, generator(7))) == pytest.approx(1.0, abs=0.02)

    class Off(Zero):
        def forward(self, x: Tensor, t: Tensor, *, r: object = None, cond: object = None) -> Tensor:
            return 0.1 * x

    worse = EDM(Off(), sigma_data=0.5).loss(batch, generator(7))
    assert float(worse) == pytest.approx(1.0 + 0.01, abs=0.02) and float(worse) > float(
        method.loss(batch, generator(7))
    )


def test_its_constants_are_the_papers_for_images_and_scale_with_the_data() -> None:
    found = EDM.parameters_for(TASKS.resolve("gaussian-8gaussians")())
    assert found["sigma_data"] == pytest.approx(3.7, abs=0.05)
    assert found["p_mean"] == pytest.approx(-1.2 + math.log(found["sigma_data"] / 0.5), abs=1e-3)
    assert found["most"] / found["least"] == pytest.approx(40_000, rel=0.05)
    with pytest.raises(ValueError, match="0 < least < most"):
        EDM(Zero(), least=2.0, most=1.0)
