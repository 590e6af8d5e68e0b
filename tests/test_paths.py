"""Laws of the conditional paths and of the conversions between predictions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fmbench.noise import generator
from fmbench.paths.path import (
    BridgePath,
    LinearPath,
    Path,
    TargetPath,
    convert,
    linear_schedule,
    trigonometric_schedule,
)
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity

PATHS = [LinearPath(0.0), LinearPath(0.3), TargetPath(0.0), TargetPath(0.2), BridgePath(0.0), BridgePath(0.7)]
SCHEDULES = [linear_schedule, trigonometric_schedule]
N = 400


def ends(seed: int = 1, n: int = N) -> tuple[Tensor, Tensor]:
    random = generator(seed)
    x0 = torch.randn((n, 2), generator=random, dtype=torch.float64)
    return x0, 3 * torch.randn((n, 2), generator=random, dtype=torch.float64) + 1


def draw(path: Path, t: float | Tensor, x0: Tensor, x1: Tensor, seed: int = 7) -> tuple[Tensor, Tensor]:
    times = torch.as_tensor(t, dtype=x0.dtype).expand(len(x0))
    return path.draw(x0, x1, times, generator(seed))


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_velocity_is_the_time_derivative_of_the_point(path: Path) -> None:
    x0, x1 = ends()
    t = 0.05 + 0.9 * torch.rand(N, generator=generator(2), dtype=torch.float64)
    h = 1e-5
    later, _ = draw(path, t + h, x0, x1)
    earlier, _ = draw(path, t - h, x0, x1)
    _, u = draw(path, t, x0, x1)
    assert torch.allclose((later - earlier) / (2 * h), u, atol=1e-6)


@pytest.mark.parametrize("path", [LinearPath(0.3), BridgePath(0.7)], ids=str)
@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_mean_and_width_given_both_ends(path: LinearPath | BridgePath, t: float) -> None:
    n = 40_000
    x0, x1 = torch.tensor([[1.0, -2.0]]).double().expand(n, 2), torch.tensor([[5.0, 3.0]]).double().expand(n, 2)
    x_t, u = draw(path, t, x0, x1)
    width = path.sigma * (math.sqrt(t * (1 - t)) if isinstance(path, BridgePath) else 1)
    tolerance = 5 * width / math.sqrt(n)
    assert torch.allclose(
        x_t.mean(0), torch.tensor([1.0, -2.0]).double().lerp(torch.tensor([5.0, 3.0]).double(), t), atol=tolerance
    )
    assert torch.allclose(x_t.std(0), torch.full((2,), width).double(), atol=tolerance)
    assert torch.allclose(u.mean(0), torch.tensor([4.0, 5.0]).double(), atol=5 * float(u.std()) / math.sqrt(n) + 1e-12)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_mean_and_width_of_the_target_path_given_the_data(t: float) -> None:
    n, sigma = 40_000, 0.2
    x0 = torch.randn((n, 2), generator=generator(4), dtype=torch.float64)
    x_t, _ = draw(TargetPath(sigma), t, x0, torch.full((n, 2), 3.0).double())
    width = (1 - t) + sigma * t
    assert torch.allclose(x_t.mean(0), torch.full((2,), 3 * t).double(), atol=5 * width / math.sqrt(n))
    assert torch.allclose(x_t.std(0), torch.full((2,), width).double(), atol=5 * width / math.sqrt(n))


def test_target_and_linear_path_agree_without_blur() -> None:
    x0, x1 = ends()
    t = torch.rand(N, generator=generator(3), dtype=torch.float64)
    for left, right in zip(draw(TargetPath(0.0), t, x0, x1), draw(LinearPath(0.0), t, x0, x1), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5])
def test_target_path_has_the_published_velocity(sigma: float) -> None:
    x0, x1 = ends()
    for t in (0.0, 0.3, 0.8, 0.99):
        x_t, u = draw(TargetPath(sigma), t, x0, x1)
        assert torch.allclose(u, (x1 - (1 - sigma) * x_t) / (1 - (1 - sigma) * t), atol=1e-9)


def test_bridge_has_the_published_velocity_and_no_correction_half_way() -> None:
    x0, x1 = ends()
    for t in (0.1, 0.4, 0.9):
        x_t, u = draw(BridgePath(0.7), t, x0, x1)
        mean = (1 - t) * x0 + t * x1
        assert torch.allclose(u, (1 - 2 * t) / (2 * t * (1 - t)) * (x_t - mean) + x1 - x0, atol=1e-9)
    x_t, u = draw(BridgePath(0.7), 0.5, x0, x1)
    assert torch.equal(u, x1 - x0)
    assert not torch.allclose(x_t, (x0 + x1) / 2, atol=1e-2)


def test_which_ends_are_blurred() -> None:
    x0, x1 = ends(n=20_000)
    for t, end in ((0.0, x0), (1.0, x1)):
        assert (draw(LinearPath(0.3), t, x0, x1)[0] - end).std().item() == pytest.approx(0.3, rel=0.03)
        assert (draw(BridgePath(0.7, margin=1e-3), t, x0, x1)[0] - end).abs().max() < 0.2
        assert torch.equal(draw(LinearPath(0.0), t, x0, x1)[0], end)
    assert torch.equal(draw(TargetPath(0.2), 0.0, x0, x1)[0], x0)
    assert (draw(TargetPath(0.2), 1.0, x0, x1)[0] - x1).std().item() == pytest.approx(0.2, rel=0.03)


def test_bridge_targets_stay_finite_at_the_ends() -> None:
    x0, x1 = ends()
    for t in (0.0, 1.0):
        assert draw(BridgePath(1.0), t, x0, x1)[1].isfinite().all()


def test_every_sample_has_its_own_time_and_images_work() -> None:
    x0 = torch.zeros(3, 1, 2, 2)
    x_t, _ = LinearPath(0.0).draw(x0, torch.ones_like(x0), torch.tensor([0.0, 0.25, 1.0]), generator(0))
    assert x_t.flatten(1).tolist() == [[0.0] * 4, [0.25] * 4, [1.0] * 4]


@pytest.mark.parametrize(("make", "sigma"), [(LinearPath, -0.1), (TargetPath, 1.0), (BridgePath, float("nan"))])
def test_bad_sigma_is_named(make: type[Path], sigma: float) -> None:
    with pytest.raises(ValueError, match=f"sigma must be in .* got {sigma}"):
        make(sigma)


DATA = GaussianMixture(
    torch.tensor([[-2.0, 0.0], [1.5, 1.0]]), torch.tensor([[0.4, 0.8], [0.6, 0.3]]), torch.tensor([0.3, 0.7])
)


def blurred(a: float, m: float) -> GaussianMixture:
    """Law of ``a x1 + m eps`` with x1 from DATA."""
    return GaussianMixture(a * DATA.means, (a**2 * DATA.stds**2 + m**2).sqrt(), DATA.weights)


def score(mixture: GaussianMixture, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(mixture.log_prob(x).sum(), x)[0]


def posterior_mean(a: float, m: float, x: Tensor) -> Tensor:
    """E[x1 | a x1 + m eps = x] by conditioning every Gaussian component."""
    marginal = blurred(a, m)
    distance = ((x[:, None] - marginal.means) / marginal.stds).square().sum(-1)
    weight = torch.softmax(DATA.weights.log() - marginal.stds.log().sum(-1) - distance / 2, dim=1)
    given = DATA.means + a * DATA.stds**2 / marginal.stds**2 * (x[:, None] - a * DATA.means)
    return (weight[:, :, None] * given).sum(1)


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_conversions_on_a_mixture_with_known_score(make, t: float) -> None:
    x = 2 * torch.randn((50, 2), generator=generator(5), dtype=torch.float64)
    schedule = make(torch.tensor(t, dtype=torch.float64))
    a, m = float(schedule.a), float(schedule.m)
    found = convert(x, schedule, score=score(blurred(a, m), x))
    assert torch.allclose(found.data, posterior_mean(a, m, x), atol=1e-9)
    assert torch.allclose(a * found.data + m * found.noise, x, atol=1e-9)
    for name in ("data", "noise", "score", "velocity"):
        again = convert(x, schedule, **{name: getattr(found, name)})
        for other in ("data", "noise", "score", "velocity"):
            assert torch.allclose(getattr(again, other), getattr(found, other), atol=1e-8), (name, other)


def test_velocity_from_the_score_is_the_exact_marginal_velocity() -> None:
    x = 2 * torch.randn((50, 2), generator=generator(6), dtype=torch.float64)
    exact = MixtureVelocity(GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0)), DATA)
    for t in (0.2, 0.7):
        found = convert(x, linear_schedule(torch.tensor(t).double()), score=score(blurred(t, 1 - t), x))
        assert torch.allclose(found.velocity, exact(x, torch.full((50,), t).double()), atol=1e-6)


@pytest.mark.parametrize("make", SCHEDULES)
def test_velocity_from_the_score_transports_the_density(make) -> None:
    """Continuity equation: d/dt log p + v . score + div v = 0, by central differences."""
    h, t = 1e-4, 0.6
    x = torch.randn((40, 2), generator=generator(8), dtype=torch.float64)

    def law(time: float) -> tuple[GaussianMixture, object]:
        schedule = make(torch.tensor(time, dtype=torch.float64))
        return blurred(float(schedule.a), float(schedule.m)), schedule

    marginal, schedule = law(t)

    def velocity(points: Tensor) -> Tensor:
        return convert(points, schedule, score=score(marginal, points)).velocity

    change = (law(t + h)[0].log_prob(x) - law(t - h)[0].log_prob(x)) / (2 * h)
    steps = h * torch.eye(2, dtype=torch.float64)
    divergence = sum(((velocity(x + e) - velocity(x - e)) / (2 * h))[:, k] for k, e in enumerate(steps))
    residual = change + (velocity(x) * score(marginal, x)).sum(1) + divergence
    assert residual.abs().max() < 1e-5 * change.abs().max().clamp_min(1)


@pytest.mark.parametrize("make", SCHEDULES)
def test_schedule_ends_and_derivatives(make) -> None:
    t = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)
    h = 1e-6
    here, later, earlier = make(t), make(t + h), make(t - h)
    assert torch.allclose((later.a - earlier.a) / (2 * h), here.da, atol=1e-8)
    assert torch.allclose((later.m - earlier.m) / (2 * h), here.dm, atol=1e-8)
    start, stop = make(torch.tensor(0.0).double()), make(torch.tensor(1.0).double())
    assert (float(start.a), float(start.m), float(stop.a)) == (0.0, 1.0, 1.0)
    assert abs(float(stop.m)) < 1e-15


def test_convert_wants_exactly_one_prediction() -> None:
    x = torch.zeros(1, 2)
    schedule = linear_schedule(torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"exactly one .* got 0"):
        convert(x, schedule)
    with pytest.raises(ValueError, match=r"exactly one .* got 2"):
        convert(x, schedule, data=x, noise=x)
