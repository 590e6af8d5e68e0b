"""Consistency models: the exact function of a Gaussian, the schedule, and sampling in several steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fmbench.flows.evaluations import counting
from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.methods.consistency import Consistency, ConsistencyDistillation
from fmbench.nets.mlp import MLP
from fmbench.noise import Draws, generator
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
from fmbench.shapes import Times

MEAN, DEVIATION = 2.0, 0.5


class Velocity(nn.Module):
    """The marginal velocity of N(0, 1) to N(2, 0.5^2)."""

    def forward(self, x: Tensor, t: Times, **_: object) -> Tensor:
        t = t[:, None]
        variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
        return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (x - t * MEAN)


class Exact(nn.Module):
    """What makes ``x + (1-t) net`` the consistency function: ``mu + S / sqrt(S^2 + sigma^2) (x / t - mu)`` of noise level sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Times, **_: object) -> Tensor:
        s = t[:, None].clamp(1e-9, 1 - 1e-9)
        sigma = (1 - s) / s
        data = MEAN + DEVIATION / (DEVIATION**2 + sigma**2).sqrt() * (x / s - MEAN)
        return (data - x) / (1 - s) + self.theta * x


def ends(count: int, seed: int) -> Batch:
    x0, x1 = (torch.randn((count, 1), generator=generator(seed, k), dtype=torch.float64) for k in (0, 1))
    return Batch(x0, MEAN + DEVIATION * x1)


def distilled(net: nn.Module, k: int) -> float:
    """Mean distance of neighbours per difference of noise level, with the exact teacher, at k halvings."""
    method = ConsistencyDistillation(net, time_mean=0.0, time_std=1.0, first=k, last=k)
    with torch.no_grad():
        return float(method.loss(replace(ends(4000, 1), base=CFM(Velocity())), generator(2)))


def test_the_exact_function_is_consistent_along_the_trajectories() -> None:
    """One Heun step misses the trajectory by its third power, so that per difference of noise level a half of it misses a quarter."""
    coarse, fine = distilled(Exact(), 6), distilled(Exact(), 7)
    assert fine < 2e-3
    assert coarse / fine == pytest.approx(4, rel=0.3)
    # The estimate of the data of the teacher, from which training starts, is not consistent.
    assert distilled(Velocity(), 7) > 0.1


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_of_the_exact_function_have_the_law_of_the_data(steps: int) -> None:
    method, x0 = Consistency(Exact()).eval(), ends(20_000, 3).x0
    with torch.no_grad(), counting(method.networks(), 2) as count:
        x = method.sample(Draws.given(x0), Sampler("euler", steps))
    assert count.network == steps * 20_000
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x.std()) == pytest.approx(DEVIATION, abs=0.02)


def test_noise_of_a_step_belongs_to_the_row() -> None:
    method = Consistency(Exact()).eval()
    draws = Draws(0, 0, 600, lambda n, random: torch.randn((n, 1), generator=random))
    with torch.no_grad():
        whole = method.sample(draws, Sampler("euler", 3))
        part = method.sample(draws.rows(300, 310), Sampler("euler", 3))
    assert torch.allclose(whole[300:310], part, atol=1e-6)


def test_it_is_the_identity_at_the_data() -> None:
    net = MLP((2,), width=16, depth=2)
    x = torch.randn((5, 2), generator=generator(4))
    assert torch.equal(Consistency(net).data(x, torch.ones(5)), x)


def test_neighbours_come_nearer_and_are_nearer_to_the_data() -> None:
    method, t = Consistency(MLP((2,), width=8, depth=1)), torch.linspace(0.02, 0.98, 25)
    sigma = (1 - t) / t
    gaps = []
    for part in range(8):
        s = method.later(t, (part + 0.5) / 8)
        assert bool((s > t).all())
        assert bool((s <= 1).all())
        gaps.append((sigma - (1 - s) / s) / sigma)
    assert torch.equal(method.later(t, 0.0)[sigma < 2], torch.ones(int((sigma < 2).sum()))), "at first it denoises"
    for before, after in zip(gaps[3:], gaps[4:], strict=False):
        assert torch.allclose(after, before / 2, atol=1e-4)
    assert gaps[-1].max() < 6 / 256
    assert torch.equal(method.later(t, 0.999999), method.later(t, 0.95))


def test_the_first_stage_estimates_the_data() -> None:
    """With s = 1 the target is the data point, whatever the network is."""
    net = MLP((1,), width=8, depth=1).double()
    method, batch = Consistency(net, time_mean=3.0, time_std=0.1), ends(50, 5)
    t = method.law.draw(50, generator(6)).double()
    x_t = (1 - t[:, None]) * batch.x0 + t[:, None] * batch.x1
    distance = (method.data(x_t, t) - batch.x1).abs().squeeze(1)
    assert method.loss(batch, generator(6)).item() == pytest.approx((distance * t / (1 - t)).mean().item(), rel=1e-4)


def test_a_teacher_is_no_part_of_the_student() -> None:
    task = TASKS.resolve("gaussian-8gaussians")()
    student, teacher = (kind(MLP((2,), width=8, depth=1)) for kind in (ConsistencyDistillation, CFM))
    assert student.batches(task, teacher, 4)(generator(0)).base is teacher
    assert set(student.state_dict()) == set(teacher.state_dict())
    student.initialise(teacher)
    x, t = torch.randn((6, 2), generator=generator(7)), torch.full((6,), 0.3)
    assert torch.equal(student.data(x, t), x + 0.7 * teacher.velocity(x, t))
    for wrong, words in ((None, "no teacher"), (Consistency(MLP((2,), width=8)), "Consistency, which has no velocity")):
        with pytest.raises(ValueError, match=words):
            student.batches(task, wrong, 4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"first": 0}, "1 <= first <= last, got 0 and 8"),
        ({"first": 9}, "got 9 and 8"),
        ({"huber": -1.0}, "huber must be"),
    ],
)
def test_parameters_are_checked(more: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Consistency(MLP((2,), width=8), **more)
