"""Laws of training times and weights of the loss: only their product counts, and each weight is the error of another prediction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.methods.times import LAWS, TimeLaw, adaptive, weights_at
from fmbench.nets.mlp import MLP
from fmbench.noise import generator
from fmbench.paths.path import convert, linear_schedule
from fmbench.shapes import like


@pytest.mark.parametrize("law", [TimeLaw(), TimeLaw("logit-normal"), TimeLaw("logit-normal", 1.1, 2.0)])
def test_densities_are_those_of_the_draws(law: TimeLaw) -> None:
    t = law.draw(200_000, generator(1)).double()
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    inside = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1] + 0.5 / 20_000
    mass = law.density(inside).reshape(10, -1).mean(1) / 10
    share = torch.histc(t, 10, 0, 1) / len(t)
    assert edges[-1] == 1
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    assert torch.allclose(share, mass, atol=4e-3)


def test_a_positive_mean_is_near_the_data() -> None:
    assert float(TimeLaw("logit-normal", 1.0).draw(4000, generator(2)).mean()) > 0.65


@pytest.fixture
def net(seeded) -> nn.Module:
    return seeded(lambda: MLP((2,), width=16, depth=2))


def batch(count: int, seed: int = 3) -> Batch:
    return Batch(*(torch.randn((count, 2), generator=generator(seed, k)) for k in (0, 1)))


def test_a_law_and_the_weights_that_undo_it_are_the_uniform_objective(net: nn.Module) -> None:
    """The weighted mean over logit-normal times, weights 1 / density, is the mean over uniform ones."""
    law, many = TimeLaw("logit-normal", 0.3, 1.5), batch(400_000)
    with torch.no_grad():
        expected = float(CFM(net).loss(many, generator(4)))
        t = law.draw(400_000, generator(5))
        s = like(t, many.x0)
        error = (net((1 - s) * many.x0 + s * many.x1, t) - (many.x1 - many.x0)).square().mean(1)
        assert float((error / law.density(t)).mean()) == pytest.approx(expected, rel=0.01)
        assert float(CFM(net, times="logit-normal", time_mean=0.3, time_std=1.5).loss(many, generator(5))) == (
            pytest.approx(float(error.mean()), rel=1e-5)
        )


@pytest.mark.parametrize(("weighting", "other"), [("data", "x1"), ("noise", "x0")])
def test_a_weighting_is_the_squared_error_of_another_prediction(weighting: str, other: str, net: nn.Module) -> None:
    pairs, t = batch(500), torch.rand(500, generator=generator(6))
    s = like(t, pairs.x0)
    x_t = (1 - s) * pairs.x0 + s * pairs.x1
    with torch.no_grad():
        found = getattr(convert(x_t, linear_schedule(s), velocity=net(x_t, t)), weighting)
        loss = CFM(net, weighting=weighting).loss(pairs, generator(6))
    assert float(loss) == pytest.approx(float((found - getattr(pairs, other)).square().mean()), rel=1e-4)


def test_min_snr_is_the_error_of_the_noise_until_the_signal_is_strong() -> None:
    """min(SNR, 5) (1-t)^2 = min(t^2, 5 (1-t)^2)."""
    t = torch.linspace(0.01, 0.99, 50)
    snr = (t / (1 - t)).square()
    weights = weights_at(t, "min-snr")
    assert weights is not None
    assert torch.allclose(weights, snr.clamp(max=5) * weights_at(t, "data"), atol=1e-6)
    assert torch.allclose(weights[snr < 5], weights_at(t, "noise")[snr < 5])  # type: ignore[index]


def test_adaptive_weights_follow_the_logarithm() -> None:
    error = torch.tensor([0.1, 2.0, 30.0], requires_grad=True)
    (adaptive(error, 1.0, 0.01) * error).sum().backward()
    (expected,) = torch.autograd.grad((error + 0.01).log().sum(), error)
    assert torch.allclose(error.grad, expected)  # type: ignore[arg-type]
    assert torch.equal(adaptive(error, 0.0, 0.01), torch.ones(3))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"times": "beta"}, "times must be one of uniform, logit-normal, got 'beta'"),
        ({"weighting": "snr"}, "weighting must be one of velocity, data, noise, min-snr, got 'snr'"),
        ({"time_std": -1.0}, "time_std positive"),
        ({"time_mean": float("nan")}, "time_mean must be finite"),
    ],
)
def test_options_are_checked(more: dict, words: str, net: nn.Module) -> None:
    with pytest.raises(ValueError, match=words):
        CFM(net, **more)


def test_the_default_is_the_objective_as_it_was(net: nn.Module) -> None:
    """Same draws: committed recipes mean the same weights."""
    pairs = batch(64)
    t = torch.rand(64, generator=generator(7))
    s = like(t, pairs.x0)
    error = (net((1 - s) * pairs.x0 + s * pairs.x1, t) - (pairs.x1 - pairs.x0)).square().mean()
    assert CFM(net).loss(pairs, generator(7)).item() == pytest.approx(error.item(), rel=1e-6)
    assert LAWS[0] == "uniform"
