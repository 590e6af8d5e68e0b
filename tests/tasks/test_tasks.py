"""Every registered task: deterministic draws, moments and projections of the closed forms, published geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri
from torch import Tensor

from fmbench.noise import generator
from fmbench.records.recipe import closed
from fmbench.registry import NETS, TASKS
from fmbench.tasks.base import Distribution, Task
from fmbench.tasks.mixture import GaussianMixture
from fmbench.zoo.building import build
from fmbench.zoo.code import method_class

# Tasks of the Hub have their own tests, with a server: tests/hub.
NAMES = sorted(name for name, where in TASKS.all().items() if "hub_images" not in where)
MIXTURES = ["mixture-2d", "mixture-16d", "mixture-64d"]
N = 20_000


def task_of(name: str) -> Task:
    return TASKS.resolve(name)()


def sides(task: Task) -> list[tuple[Distribution, GaussianMixture]]:
    """Distributions that *are* their mixture; the mixture of a finite set is a blurred copy of it."""
    pairs = [(task.source, task.source_mixture), (task.target, task.target_mixture)]
    return [(d, m) for d, m in pairs if m is not None and not hasattr(d, "points")]


def moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a mixture."""
    frame = torch.eye(mixture.dim, dtype=torch.float64) if mixture.frame is None else mixture.frame
    mean = mixture.weights @ mixture.means
    second = (
        torch.diag(mixture.weights @ mixture.stds.square())
        + (mixture.means * mixture.weights[:, None]).T @ mixture.means
    )
    return frame @ mean, frame @ (second - torch.outer(mean, mean)) @ frame.T


def projected_cdf(mixture: GaussianMixture, direction: np.ndarray):
    """CDF of ``x . direction``, a 1-D mixture."""
    along = direction if mixture.frame is None else mixture.frame.numpy().T @ direction
    means, stds = mixture.means.numpy() @ along, np.sqrt(mixture.stds.numpy() ** 2 @ along**2)
    return lambda x: stats.norm.cdf((x[:, None] - means) / stds) @ mixture.weights.numpy()


def directions(dim: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    axes = list(np.eye(dim)[: min(dim, 4)])
    return axes + [v / np.linalg.norm(v) for v in random.normal(size=(4, dim))]


@pytest.mark.parametrize("name", NAMES)
def test_draws_depend_on_the_generator_only(name: str) -> None:
    task = task_of(name)
    for side in (task.source, task.target, task.heldout):
        first, again, other = (side.sample(300, generator(seed)) for seed in (1, 1, 2))
        assert first.shape == (300, *task.shape)
        assert first.dtype == torch.float32
        assert first.isfinite().all()
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_task_says_what_it_is(name: str) -> None:
    task = task_of(name)
    assert task.name == name
    assert task.kind in ("vector", "image")
    assert task.dim == math.prod(task.shape)
    assert task.finite == hasattr(task.heldout, "points")
    assert task.version >= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_gaussian_source_is_standard_normal(name: str) -> None:
    task = task_of(name)
    p = stats.kstest(task.source.sample(N, generator(4)).flatten().numpy()[: 2 * N], "norm").pvalue
    assert (p > 1e-4) == task.gaussian_source


@pytest.mark.parametrize("name", NAMES)
def test_closed_recipes_build(name: str, seeded) -> None:
    task = task_of(name)
    recipe = closed(task, "cfm")
    method = seeded(lambda: build(recipe, task, method_class("cfm"), "here"))
    x = task.source.sample(3, generator(0))
    assert method.net(x, torch.zeros(3)).shape == x.shape
    assert isinstance(method.net, NETS.resolve(task.net["name"]))


@pytest.mark.parametrize("name", NAMES)
def test_fm_is_refused_without_a_gaussian_source(name: str) -> None:
    task = task_of(name)
    if task.gaussian_source:
        build(closed(task, "fm"), task, method_class("fm"), "here")
    else:
        with pytest.raises(ValueError, match=f"fm needs a Gaussian source, and the source of {name} is not"):
            build(closed(task, "fm"), task, method_class("fm"), "here")


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_the_mixture(name: str) -> None:
    for side, mixture in sides(task_of(name)):
        x = side.sample(2 * N, generator(5)).flatten(1).double()
        mean, covariance = moments(mixture)
        centred = x - mean
        assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / len(x)).sqrt()).all()
        error = (centred.T @ centred / len(x) - covariance).abs()
        spread = ((centred**2).T @ centred**2 / len(x) - covariance**2).clamp_min(0).sqrt() / math.sqrt(len(x))
        assert (error < 5 * spread).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_projections_follow_the_mixture(name: str) -> None:
    for side, mixture in sides(task_of(name)):
        x = side.sample(N // 4, generator(6)).flatten(1).double().numpy()
        for direction in directions(mixture.dim):
            assert stats.kstest(x @ direction, projected_cdf(mixture, direction)).pvalue > 1e-4


@pytest.mark.parametrize("name", [n for n in NAMES if task_of(n).shape == (2,)])
def test_density_integrates_to_one(name: str) -> None:
    """Trapezoid rule with a step of one standard deviation: spectrally exact for Gaussians."""
    for _, mixture in sides(task_of(name)):
        reach = mixture.means.abs().max() + 8 * mixture.stds.max()
        step = float(mixture.stds.min()) * 0.9
        axis = torch.arange(-float(reach) * 1.5, float(reach) * 1.5, step, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        total = sum(float(mixture.log_prob(part).exp().sum()) for part in grid.split(4096)) * step**2
        assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", MIXTURES)
def test_log_prob_against_scipy(name: str) -> None:
    mixture = task_of(name).target_mixture
    assert mixture is not None and mixture.frame is not None
    x = mixture.sample(20, generator(7)).double()
    density = 0.0
    for mean, std, weight in zip(mixture.means, mixture.stds, mixture.weights, strict=True):
        covariance = (mixture.frame * std.square()) @ mixture.frame.T
        density = density + float(weight) * stats.multivariate_normal(
            (mixture.frame @ mean).numpy(), covariance.numpy()
        ).pdf(x.numpy())
    assert mixture.log_prob(x).numpy() == pytest.approx(np.log(density), abs=1e-8)


@pytest.mark.parametrize("name", MIXTURES)
def test_rotation_is_orthogonal_and_no_identity(name: str) -> None:
    mixture = task_of(name).target_mixture
    assert mixture is not None and mixture.frame is not None
    eye = torch.eye(mixture.dim, dtype=torch.float64)
    assert torch.allclose(mixture.frame.T @ mixture.frame, eye, atol=1e-12)
    assert (mixture.frame - eye).abs().max() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_w2_by_quadrature_against_sorted_samples(name: str) -> None:
    """Product measures: W2^2 is a sum over axes, each exact by sorting against normal quantiles."""
    task = task_of(name)
    assert task.target_mixture is not None
    assert task.target_mixture.frame is not None
    n = 30_000
    x = task.target.sample(n, generator(8)).double() @ task.target_mixture.frame
    quantiles = torch.from_numpy(ndtri((np.arange(n) + 0.5) / n))
    found = float((x.sort(dim=0).values - quantiles[:, None]).square().mean(0).sum())
    assert task.w2_squared == (pytest.approx(found, rel=0.015), 0)


@pytest.mark.parametrize("name", [n for n in NAMES if task_of(n).shape == (2,) and task_of(n).w2_squared])
def test_w2_of_the_plane_against_exact_transport(name: str) -> None:
    import ot

    task = task_of(name)
    found = []
    for k in range(5):
        x, y = task.source.sample(500, generator(9, k)).double(), task.target.sample(500, generator(10, k)).double()
        found.append(ot.emd2([], [], torch.cdist(x, y).square().numpy(), numItermax=10_000_000))
    assert task.w2_squared is not None
    assert np.mean(found) == pytest.approx(task.w2_squared[0], rel=0.1, abs=0.05)


def alike(x: np.ndarray, y: np.ndarray) -> float:
    """Smallest two-sample Kolmogorov-Smirnov p-value over the axes and two oblique directions."""
    around = [np.array(v) for v in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, -2.0))]
    return min(stats.ks_2samp(x @ v, y @ v).pvalue for v in around)


def published(name: str) -> np.ndarray:
    """The runner's geometry (2302.00482), drawn with NumPy and scikit-learn."""
    from sklearn.datasets import make_moons, make_s_curve

    random = np.random.default_rng(11)
    if name == "moons":
        return 2 * make_moons(N, noise=0.05, random_state=12)[0] - 1
    if name == "scurve":
        return 1.5 * make_s_curve(N, noise=0.05, random_state=13)[0][:, [0, 2]]
    if name == "twodim-moons":
        x = make_moons(N, noise=0.1, random_state=14)[0]
        return 7 * (x - x.mean()) / x.std()
    radius, std = {"gaussians": (5.0, 1.0), "twodim-gaussians": (4.0, 0.5)}[name]
    angle = random.integers(0, 8, N) * 2 * np.pi / 8
    x = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + std * random.normal(size=(N, 2))
    return 3 * x if name == "twodim-gaussians" else x


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("gaussian-8gaussians", None, "gaussians"),
        ("gaussian-moons", None, "moons"),
        ("gaussian-scurve", None, "scurve"),
        ("8gaussians-moons", "twodim-gaussians", "twodim-moons"),
        ("moons-8gaussians", "twodim-moons", "twodim-gaussians"),
    ],
)
def test_geometry_is_the_published_one(name: str, source: str | None, target: str) -> None:
    task = task_of(name)
    assert alike(task.target.sample(N, generator(15)).numpy(), published(target)) > 1e-4
    if source:
        assert alike(task.source.sample(N, generator(16)).numpy(), published(source)) > 1e-4


@pytest.mark.parametrize(
    ("name", "radius", "std"), [("gaussian-8gaussians", 5.0, 1.0), ("moons-8gaussians", 12.0, 1.5)]
)
def test_ring_radius_and_width(name: str, radius: float, std: float) -> None:
    mixture = task_of(name).target_mixture
    assert mixture is not None
    assert len(mixture.means) == 8
    assert torch.allclose(mixture.means.norm(dim=1), torch.full((8,), radius).double())
    assert (
        torch.cdist(mixture.means, mixture.means)
        .fill_diagonal_(9e9)
        .amin(1)
        .allclose(torch.full((8,), 2 * radius * math.sin(math.pi / 8)).double())
    )
    assert (mixture.stds == std).all()
    x = task_of(name).target.sample(5 * N, generator(17)).double()
    assert float(x.square().sum(1).mean()) == pytest.approx(radius**2 + 2 * std**2, rel=0.01)


def test_moons_lie_on_their_half_circles() -> None:
    x = (task_of("gaussian-moons").target.sample(N, generator(18)).double() + 1) / 2
    outer, inner = x.norm(dim=1), (x - torch.tensor([1.0, 0.5])).norm(dim=1)
    distance = torch.minimum((outer - 1).abs(), (inner - 1).abs())
    assert float(distance.square().mean().sqrt()) == pytest.approx(0.05, rel=0.05)


def test_checkerboard_fills_the_black_squares_evenly() -> None:
    x = task_of("gaussian-checkerboard").target.sample(N, generator(19)).double() * 0.45
    assert x.abs().max() <= 2
    cell = x.floor().long()
    assert len((cell.sum(1) % 2).unique()) == 1
    counts = (4 * cell[:, 0] + cell[:, 1]).unique(return_counts=True)[1]
    assert len(counts) == 8
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    inside = (x - x.floor()).numpy()
    assert min(stats.kstest(inside[:, k], "uniform").pvalue for k in (0, 1)) > 1e-4


def test_digits_split_is_fixed_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    task = task_of("digits")
    train, train_labels = task.target.points()
    test, test_labels = task.heldout.points()
    assert (len(train), len(test)) == (1437, 360)
    rows = [tuple(image.flatten().tolist()) for image in torch.cat([train, test])]
    assert len(set(rows)) == 1797  # scikit-learn's scans are all different, so nothing is in both parts
    bunch = load_digits()
    scans = {tuple((v / 8 - 1).tolist()): int(k) for v, k in zip(bunch.data, bunch.target, strict=True)}
    assert [scans[row] for row in rows] == torch.cat([train_labels, test_labels]).tolist()
    assert train.min() == -1
    assert train.max() == 1
    assert len(train_labels.unique()) == len(test_labels.unique()) == task.num_classes == 10
    assert [int(v) for v in test_labels.bincount()] == pytest.approx([36] * 10, abs=18)


def test_digits_draw_images_with_their_labels() -> None:
    task = task_of("digits")
    images, labels = task.target.points()
    known = {tuple(image.flatten().tolist()): int(label) for image, label in zip(images, labels, strict=True)}
    drawn, drawn_labels = task.target.sample_labelled(500, generator(20))
    assert [known[tuple(image.flatten().tolist())] for image in drawn] == drawn_labels.tolist()
    assert torch.equal(task.target.sample(500, generator(20)), drawn)


@pytest.mark.parametrize(("stds", "weights"), [(-1.0, [1.0, 1.0]), (1.0, [1.0, 0.0]), (1.0, [2.0, -1.0])])
def test_impossible_mixtures_are_refused(stds: float, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be positive and standard deviations non-negative"):
        GaussianMixture(torch.zeros(2, 2), torch.tensor(stds), torch.tensor(weights))
