"""Conversions between what networks predict: every one against the closed form of a mixture, and against automatic derivatives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fmbench.noise import generator
from fmbench.paths.conversions import PREDICTS, ends, linear_velocity, predicted, share_of_data
from fmbench.paths.schedules import DDPM, SCHEDULES, VE, VP, Schedule, schedule_of
from fmbench.shapes import like
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity

TARGET = GaussianMixture(
    torch.tensor([[-2.0, 1.0], [2.0, 0.0], [0.0, -3.0]]),
    torch.tensor([[0.4, 0.9], [0.7, 0.3], [0.5, 0.5]]),
    torch.tensor([0.2, 0.5, 0.3]),
)
SOURCE = GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0))
VARIANCE_PRESERVING = ("trig", "vp", "ddpm")
COMBINATIONS = [
    (name, predicts, clock)
    for name in SCHEDULES
    for predicts in PREDICTS
    for clock in schedule_of(name).clocks
    if (predicts != "v" or name in VARIANCE_PRESERVING)
    and (predicts != "velocity" or clock in ("data_at_1", "data_at_0", "sigma", "index"))
    and not (predicts == "velocity" and name in ("ve", "edm") and clock != "sigma")
    and not (predicts == "velocity" and name == "ddpm" and clock != "index")
]


def posterior_means(x: Tensor, a: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """E[x1 | x] and E[eps | x] of the mixture on x = a x1 + m eps, by Bayes' rule over the components."""
    variance = (a[:, None, None] * TARGET.stds) ** 2 + m[:, None, None] ** 2
    off = x[:, None] - a[:, None, None] * TARGET.means
    weight = torch.softmax(TARGET.weights.log() - 0.5 * (off**2 / variance + variance.log()).sum(-1), 1)[..., None]
    data = (weight * (TARGET.means + a[:, None, None] * TARGET.stds**2 * off / variance)).sum(1)
    noise = (weight * m[:, None, None] * off / variance).sum(1)
    return data, noise


def points(n: int = 40) -> tuple[Tensor, Tensor]:
    random = generator(3)
    t = torch.rand(n, generator=random, dtype=torch.float64) * 0.96 + 0.02
    x1 = TARGET.sample(n, random).double()
    eps = torch.randn((n, 2), generator=random, dtype=torch.float64)
    return t[:, None] * x1 + (1 - t[:, None]) * eps, t


@pytest.mark.parametrize(("name", "predicts", "clock"), COMBINATIONS)
def test_an_exact_network_of_any_kind_is_the_exact_velocity(name: str, predicts: str, clock: str) -> None:
    """Its prediction is made from Bayes' rule at the time that its own clock shows; the truth is the oracle of the linear path."""
    schedule, scale = schedule_of(name), 7.0

    def network(x: Tensor, time: Tensor) -> Tensor:
        s = schedule.read(time / scale, clock)
        a, m = schedule.coefficients(s)
        # Rates by finite differences of the coefficients along the clock itself, not from the formula under test.
        h = 1e-6
        ahead, behind = (schedule.coefficients(schedule.read(time / scale + d, clock)) for d in (h, -h))
        rates = tuple(((p - q) / (2 * h))[:, None] for p, q in zip(ahead, behind, strict=True))
        data, noise = posterior_means(x, a, m)
        return predicted(data, noise, a[:, None], m[:, None], predicts, rates)  # type: ignore[arg-type]

    x, t = points()
    inside = (t > share_of_data(schedule, schedule.at(torch.tensor(schedule.span[0], dtype=torch.float64)))) & (
        t < 0.98
    )
    x, t = x[inside], t[inside]
    got = linear_velocity(network, schedule, predicts, clock, x, t, scale)
    truth = MixtureVelocity(SOURCE, TARGET)(x, t)
    loose = 3e-4 if predicts == "velocity" else 1e-9
    assert torch.allclose(got, truth, rtol=loose, atol=loose)


@pytest.mark.parametrize(("predicts", "other"), list(itertools.permutations(PREDICTS, 2)))
@pytest.mark.parametrize("name", ["linear", "trig", "vp", "edm", "ddpm"])
def test_round_trips_lose_nothing_but_the_last_digits(name: str, predicts: str, other: str) -> None:
    if "v" in (predicts, other) and name not in VARIANCE_PRESERVING:
        pytest.skip("v is defined where a^2 + m^2 = 1")
    schedule, random = schedule_of(name), generator(4)
    lam = torch.linspace(-2, 2, 9, dtype=torch.float64)
    s = schedule.at(lam)
    a, m, da, dm = (c[:, None] for c in (*schedule.coefficients(s), *schedule.rates(s)))
    data, noise = (torch.randn((9, 3), generator=random, dtype=torch.float64) for _ in range(2))
    x = a * data + m * noise
    first = predicted(data, noise, a, m, predicts, (da, dm))
    second = predicted(*ends(first, x, a, m, predicts, (da, dm)), a, m, other, (da, dm))
    back = predicted(*ends(second, x, a, m, other, (da, dm)), a, m, predicts, (da, dm))
    assert torch.allclose(back, first, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_rates_are_the_derivatives_and_times_the_inverse(name: str) -> None:
    schedule = schedule_of(name)
    low, high = schedule.span
    lam = torch.linspace(max(low, -6) + 0.01, min(high, 6) - 0.01, 11, dtype=torch.float64)
    s = schedule.at(lam)
    a, m = schedule.coefficients(s)
    assert torch.allclose((a / m).log(), lam, rtol=1e-9, atol=1e-9)
    for clock in schedule.clocks:
        assert torch.allclose(schedule.read(schedule.shown(s, clock), clock), s, rtol=1e-12, atol=1e-12)
    leaf = s.clone().requires_grad_()
    for made, rate in zip(schedule.coefficients(leaf), schedule.rates(s), strict=True):
        if made.requires_grad:
            (slope,) = torch.autograd.grad(made.sum(), leaf, retain_graph=True)
            assert torch.allclose(slope, rate, rtol=1e-7, atol=1e-12)


def test_known_numbers_of_the_schedules() -> None:
    a, _ = VP().coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert a.tolist() == pytest.approx([1.0, math.exp(-(0.1 + 19.9 / 2) / 2)])
    table = DDPM.linear()
    assert table.span[0] == pytest.approx(math.log(0.00635 / math.sqrt(1 - 0.00635**2)), abs=2e-3)
    assert share_of_data(VE(), torch.tensor(80.0, dtype=torch.float64)).item() == pytest.approx(1 / 81)


@pytest.mark.parametrize("name", ["vp", "edm", "ddpm"])
def test_a_step_of_euler_is_a_step_of_ddim(name: str) -> None:
    schedule = schedule_of(name)
    s, later = schedule.at(torch.tensor([-1.0, 0.5], dtype=torch.float64))
    (a, m), (a2, m2) = schedule.coefficients(s), schedule.coefficients(later)
    x = torch.randn((5, 3), generator=generator(1), dtype=torch.float64)
    noise = 0.3 * x + 0.1
    ddim = a2 * (x - m * noise) / a + m2 * noise
    t, t2 = share_of_data(schedule, s), share_of_data(schedule, later)
    v = linear_velocity(lambda y, _: 0.3 * y + 0.1, schedule, "noise", schedule.clocks[0], x / (a + m), t.expand(5))
    assert torch.allclose((x / (a + m) + (t2 - t) * v) * (a2 + m2), ddim, rtol=1e-12, atol=1e-12)


def test_what_makes_no_sense_is_refused_in_one_line() -> None:
    for act, words in (
        (lambda: schedule_of("cosine"), "schedule must be one of linear"),
        (lambda: schedule_of("vp").require_clock("sigma"), "time must be one of data_at_0, data_at_1"),
        (lambda: DDPM([0.5, 0.6]), "alphas_cumprod must be"),
        (lambda: DDPM([1.0, 0.6]), "alphas_cumprod must be"),
        (lambda: ends(*(torch.ones(1),) * 4, "nois"), "predicts must be one of velocity, noise"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=words) as error:
            act()
        assert "\n" not in str(error.value)


def test_the_ends_are_finite_for_every_prediction() -> None:
    x = torch.randn((4, 2), generator=generator(2))
    for name, predicts, clock in COMBINATIONS:
        schedule: Schedule = schedule_of(name)
        for t in (0.0, 1.0):
            got = linear_velocity(lambda y, _: 0.1 * y, schedule, predicts, clock, x, torch.full((4,), t))
            assert bool(got.isfinite().all()), (name, predicts, clock, t)
            assert like(torch.ones(4), got).shape == (4, 1)
