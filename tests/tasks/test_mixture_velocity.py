"""Laws of the closed-form marginal velocity between Gaussian mixtures."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fmbench.noise import generator
from fmbench.registry import TASKS
from fmbench.solvers.base import uniform_grid
from fmbench.solvers.rk4 import RK4
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity


def rotation(dim: int, seed: int = 1) -> Tensor:
    return torch.linalg.qr(torch.randn((dim, dim), generator=generator(seed), dtype=torch.float64))[0]


def cases() -> dict[str, tuple[GaussianMixture, GaussianMixture]]:
    wide = torch.tensor([[0.4, 0.9], [0.7, 0.3], [0.5, 0.5]])
    target = (torch.tensor([[-2.0, 1.0], [2.0, 0.0], [0.0, -3.0]]), wide, torch.tensor([0.2, 0.5, 0.3]))
    several = GaussianMixture(
        torch.tensor([[3.0, 3.0], [-3.0, 1.0]]), torch.tensor([[0.5, 1.0], [0.8, 0.2]]), torch.tensor([1.0, 2.0])
    )
    isotropic = GaussianMixture(
        torch.tensor([[3.0, 3.0], [-3.0, 1.0]]), torch.tensor([[0.5], [1.2]]), torch.tensor([1.0, 2.0])
    )
    return {
        "normal": (GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0)), GaussianMixture(*target)),
        "several": (several, GaussianMixture(*target)),
        "rotated": (isotropic, GaussianMixture(*target, rotation(2))),
    }


CASES = cases()


def at(t: float, n: int) -> Tensor:
    return torch.full((n,), t, dtype=torch.float64)


def draw(mixture: GaussianMixture, n: int, seed: int) -> Tensor:
    return mixture.sample(n, generator(seed)).double()


def intermediate(source: GaussianMixture, target: GaussianMixture, t: float) -> GaussianMixture:
    """Law of (1-t) X0 + t X1, component by component, in the target's frame."""
    frame = torch.eye(target.dim, dtype=torch.float64) if target.frame is None else target.frame
    means, stds, weights = [], [], []
    for m0, s0, w0 in zip(source.means @ frame, source.stds, source.weights, strict=True):
        for m1, s1, w1 in zip(target.means, target.stds, target.weights, strict=True):
            means.append((1 - t) * m0 + t * m1)
            stds.append(torch.hypot((1 - t) * s0, t * s1))
            weights.append(w0 * w1)
    return GaussianMixture(torch.stack(means), torch.stack(stds), torch.stack(weights), frame)


def test_between_two_gaussians(gaussian_flow) -> None:
    exact = MixtureVelocity(gaussian_flow.task.source_mixture, gaussian_flow.task.target_mixture)
    x = torch.linspace(-4, 6, 40, dtype=torch.float64)[:, None]
    for t in (0.0, 0.25, 0.8, 1.0):
        assert torch.allclose(exact(x, at(t, 40)), gaussian_flow.velocity(x, at(t, 40)), atol=1e-12)


def test_flow_map_between_two_gaussians(gaussian_flow) -> None:
    exact = MixtureVelocity(gaussian_flow.task.source_mixture, gaussian_flow.task.target_mixture)
    x0 = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    assert torch.allclose(RK4().solve(exact, x0, uniform_grid(200)), 2 + x0 / 2, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_velocity_is_the_conditional_mean_of_the_displacement(name: str, t: float) -> None:
    """E[(X1 - X0) 1_B(X_t)] = E[v(X_t, t) 1_B(X_t)] for every cell B of a partition of the plane."""
    source, target = CASES[name]
    n = 200_000
    x0, x1 = draw(source, n, 2), draw(target, n, 3)
    x_t = (1 - t) * x0 + t * x1
    error = x1 - x0 - MixtureVelocity(source, target)(x_t, at(t, n))
    edges = [x_t[:, k].quantile(torch.linspace(0, 1, 9, dtype=torch.float64)[1:-1]) for k in (0, 1)]
    cell = 8 * torch.bucketize(x_t[:, 0].contiguous(), edges[0]) + torch.bucketize(x_t[:, 1].contiguous(), edges[1])
    for b in range(64):
        inside = error[cell == b]
        if len(inside) > 200:
            assert (inside.mean(0).abs() < 5 * inside.std(0) / math.sqrt(len(inside)) + 1e-9).all()


@pytest.mark.parametrize("name", CASES)
def test_mixed_times_are_times_one_by_one(name: str) -> None:
    exact = MixtureVelocity(*CASES[name])
    x = draw(CASES[name][1], 8, 4)
    t = torch.tensor([0.3, 0.0, 0.3, 1.0, 0.7, 0.0, 0.5, 0.3], dtype=torch.float64)
    together = exact(x, t)
    for k in range(8):
        assert torch.allclose(exact(x[k : k + 1], t[k : k + 1]), together[k : k + 1], atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_continuity_equation(name: str, t: float) -> None:
    """d/dt log p + v . grad log p + div v = 0 by central differences of the analytic density."""
    source, target = CASES[name]
    exact = MixtureVelocity(source, target)
    x = draw(intermediate(source, target, t), 100, 5)
    h = 1e-4
    change = (intermediate(source, target, t + h).log_prob(x) - intermediate(source, target, t - h).log_prob(x)) / (
        2 * h
    )
    here = intermediate(source, target, t)
    transport = torch.zeros(100, dtype=torch.float64)
    for k, e in enumerate(h * torch.eye(2, dtype=torch.float64)):
        slope = (here.log_prob(x + e) - here.log_prob(x - e)) / (2 * h)
        divergence = (exact(x + e, at(t, 100)) - exact(x - e, at(t, 100)))[:, k] / (2 * h)
        transport += exact(x, at(t, 100))[:, k] * slope + divergence
    assert (change + transport).abs().max() < 1e-4
    assert change.abs().max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian-8gaussians", "gaussian-scurve", "mixture-2d"])
def test_the_exact_flow_reaches_the_target(name: str) -> None:
    """W2 of pushed samples lies within the W2 between fresh target sets of the same size."""
    import ot

    task = TASKS.resolve(name)()
    n = 500
    exact = MixtureVelocity(task.source_mixture, task.target_mixture)
    pushed = RK4().solve(exact, task.source.sample(n, generator(6)).double(), uniform_grid(24))

    def w2(x: Tensor, y: Tensor) -> float:
        return ot.emd2([], [], torch.cdist(x, y).square().numpy(), numItermax=10_000_000)

    fresh = [task.target.sample(n, generator(7, k)).double() for k in range(9)]
    floor = [w2(a, b) for a, b in itertools.pairwise(fresh[1:])]
    assert w2(pushed, fresh[0]) < 1.2 * max(floor)
    assert w2(draw(task.source_mixture, n, 8), fresh[0]) > 3 * max(floor)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixture-16d", "mixture-64d"])
def test_the_exact_flow_reaches_rotated_mixtures(name: str) -> None:
    """Per axis of the frame: sorted pushed samples against sorted target samples."""
    task = TASKS.resolve(name)()
    n = 2000
    pushed = RK4().solve(
        MixtureVelocity(task.source_mixture, task.target_mixture),
        task.source.sample(n, generator(9)).double(),
        uniform_grid(16),
    )
    one, other = (task.target.sample(n, generator(10 + k)).double() for k in (0, 1))

    def per_axis(x: Tensor, y: Tensor) -> Tensor:
        frame = task.target_mixture.frame
        return ((x @ frame).sort(dim=0).values - (y @ frame).sort(dim=0).values).square().mean(0)

    assert per_axis(pushed, one).mean() < 2.5 * per_axis(other, one).mean()
    assert (per_axis(pushed, one) < 8 * per_axis(other, one).max()).all()


def test_images_and_dtype() -> None:
    task = TASKS.resolve("digits")()
    exact = MixtureVelocity(task.source_mixture, task.target_mixture)
    x = task.source.sample(3, generator(13))
    v = exact(x, torch.zeros(3))
    assert v.shape == x.shape
    assert v.dtype == torch.float32
    # At t = 0 nothing is known of the data: the velocity is the mean image minus x.
    assert torch.allclose(v, task.target.points()[0].mean(0) - x, atol=1e-5)


@pytest.mark.slow
def test_the_empirical_flow_ends_on_training_images() -> None:
    task = TASKS.resolve("digits")()
    exact = MixtureVelocity(task.source_mixture, task.target_mixture)
    grid = 1 - (1 - uniform_grid(30)) ** 2  # small steps where the velocity is stiff
    ends = RK4().solve(exact, task.source.sample(8, generator(14)), grid)
    nearest = torch.cdist(ends.flatten(1), task.target.points()[0].flatten(1)).amin(dim=1)
    assert nearest.max() < 4 * 0.0125 * 8  # a few times the blur's norm in 64 dimensions


def test_frames_that_cannot_be_joined_are_refused() -> None:
    plain, turned = CASES["normal"][1], CASES["rotated"][1]
    with pytest.raises(ValueError, match="source mixture must have the identity frame"):
        MixtureVelocity(turned, plain)
    with pytest.raises(ValueError, match="source components must be isotropic"):
        MixtureVelocity(plain, turned)
