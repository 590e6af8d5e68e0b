"""The 2-D transport problems of the literature, in the geometry of torchcfm's runner (2302.00482, table 2).

The published runs train on 10,000 fixed points; here every batch is drawn fresh from the same distribution, so the tables measure
distance to the distribution and not to one sample of it. ``python -m fmbench.tasks.toys`` recomputes the W2^2 constants below.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fmbench.shapes import Points
from fmbench.tasks.base import Distribution, StandardNormal, Task
from fmbench.tasks.mixture import GaussianMixture

CLOSED_NET = {"name": "mlp", "width": 64, "depth": 3, "activation": "selu"}
CLOSED_TRAIN = {"steps": 10_000, "batch_size": 256, "lr": 1e-3, "weight_decay": 1e-5, "ema": 0.999}


def gauss_legendre(start: float, stop: float, spacing: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [start, stop] whose widest gap is at most ``spacing``.

    A curve blurred by Gaussian noise is an analytic integrand, for which the rule is exact to machine precision once the gap is
    below the noise: the distribution *is* then a Gaussian mixture, for every practical purpose.
    """
    count = math.ceil(math.pi / 2 * (stop - start) / spacing)
    nodes, weights = np.polynomial.legendre.leggauss(count)
    middle, half = (start + stop) / 2, (stop - start) / 2
    return torch.from_numpy(middle + half * nodes), torch.from_numpy(half * weights)


class Moons:
    """scikit-learn's two half circles, ``scale * (p + noise N(0, I)) + shift``, angles uniform on [0, pi]."""

    def __init__(self, noise: float, scale: float, shift: float) -> None:
        self.noise, self.scale, self.shift = noise, scale, shift

    @staticmethod
    def curve(angle: Tensor, inner: Tensor) -> Tensor:
        """Point of the outer or inner half circle at ``angle``."""
        outer = torch.stack([angle.cos(), angle.sin()], dim=1)
        return torch.where(inner[:, None], torch.tensor([1.0, 0.5], dtype=angle.dtype) - outer, outer)

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """See :class:`Distribution`."""
        angle = torch.rand(n, generator=generator) * math.pi
        inner = torch.rand(n, generator=generator) < 0.5
        points = self.curve(angle, inner) + self.noise * torch.randn((n, 2), generator=generator)
        return self.scale * points + self.shift

    def mixture(self) -> GaussianMixture:
        """The same distribution by quadrature over the angle."""
        angle, weight = gauss_legendre(0.0, math.pi, 0.8 * self.noise)
        outer = torch.zeros(len(angle), dtype=torch.bool)
        points = torch.cat([self.curve(angle, outer), self.curve(angle, ~outer)])
        return GaussianMixture(
            self.scale * points + self.shift, torch.tensor(self.scale * self.noise), torch.cat([weight, weight])
        )


class SCurve:
    """scikit-learn's S curve seen from the side: ``1.5 * ((sin t, sign(t) (cos t - 1)) + 0.05 N(0, I))``, t uniform on +-3 pi / 2."""

    noise, scale = 0.05, 1.5

    @staticmethod
    def curve(angle: Tensor) -> Tensor:
        """Point of the noiseless curve."""
        return torch.stack([angle.sin(), angle.sign() * (angle.cos() - 1)], dim=1)

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """See :class:`Distribution`."""
        angle = 3 * math.pi * (torch.rand(n, generator=generator) - 0.5)
        return self.scale * (self.curve(angle) + self.noise * torch.randn((n, 2), generator=generator))

    def mixture(self) -> GaussianMixture:
        """The same distribution by quadrature over the angle, in two halves because the curve has a corner at 0."""
        angle, weight = gauss_legendre(0.0, 1.5 * math.pi, 0.8 * self.noise)
        points = self.curve(torch.cat([-angle, angle]))
        return GaussianMixture(self.scale * points, torch.tensor(self.scale * self.noise), torch.cat([weight, weight]))


class Checkerboard:
    """The eight black squares of a 4 x 4 board on [-2, 2]^2, uniform, divided by 0.45 (facebookresearch/flow_matching's example)."""

    scale = 1 / 0.45

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """See :class:`Distribution`."""
        x = torch.rand(n, generator=generator) * 4 - 2
        row = torch.randint(0, 2, (n,), generator=generator) * 2 - 2
        y = torch.rand(n, generator=generator) + row + x.floor() % 2
        return torch.stack([x, y], dim=1) * self.scale


def ring(radius: float, std: float, modes: int = 8) -> GaussianMixture:
    """Equal Gaussians on a circle, the first at angle 0."""
    angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), torch.tensor(std))


def standardised_moons() -> Moons:
    """Moons with noise 0.1, standardised by one mean and one deviation over both coordinates, times 7 (the runner's ``twodim``)."""
    noise = 0.1
    mean = (0.5 + 0.25) / 2
    # E x^2 = 1, E y^2 = (1/2 + 1/4 - 2/pi + 1/2) / 2, plus the noise.
    second = (1.0 + (1.25 - 2 / math.pi) / 2) / 2 + noise**2
    std = math.sqrt(second - mean**2)
    return Moons(noise=noise, scale=7 / std, shift=-7 * mean / std)


NORMAL = GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0))
EIGHT_GAUSSIANS = ring(radius=5.0, std=1.0)
WIDE_EIGHT_GAUSSIANS = ring(radius=12.0, std=1.5)
MOONS = Moons(noise=0.05, scale=2.0, shift=-1.0)

W2_SQUARED: dict[str, tuple[float, float]] = {
    "gaussian-8gaussians": (14.9614, 0.0019),
    "gaussian-moons": (1.2372, 0.0005),
    "gaussian-scurve": (1.6421, 0.0007),
    "gaussian-checkerboard": (5.3107, 0.0007),
    "8gaussians-moons": (29.6975, 0.0168),
    "moons-8gaussians": (29.7034, 0.0154),
}


def _task(
    name: str,
    summary: str,
    target: Distribution,
    target_mixture: GaussianMixture | None,
    source: Distribution | None = None,
    source_mixture: GaussianMixture = NORMAL,
) -> Task:
    return Task(
        name=name,
        version=1,
        summary=summary,
        kind="vector",
        shape=(2,),
        source=source or StandardNormal((2,)),
        target=target,
        heldout=target,
        net=CLOSED_NET,
        train=CLOSED_TRAIN,
        source_mixture=source_mixture,
        target_mixture=target_mixture,
        w2_squared=W2_SQUARED.get(name),
        gaussian_source=source is None,
    )


def gaussian_8gaussians() -> Task:
    """N(0, I) to eight Gaussians of std 1 on a circle of radius 5 (torchcfm's runner, after torchdyn)."""
    return _task("gaussian-8gaussians", "N(0,I) to 8 Gaussians, radius 5, std 1", EIGHT_GAUSSIANS, EIGHT_GAUSSIANS)


def gaussian_moons() -> Task:
    """N(0, I) to two moons of noise 0.05, times 2, minus 1 (torchcfm's runner)."""
    return _task("gaussian-moons", "N(0,I) to two moons, scale 2", MOONS, MOONS.mixture())


def gaussian_scurve() -> Task:
    """N(0, I) to the S curve of noise 0.05, columns 0 and 2, times 1.5 (torchcfm's runner)."""
    return _task("gaussian-scurve", "N(0,I) to the S curve, scale 1.5", SCurve(), SCurve().mixture())


def gaussian_checkerboard() -> Task:
    """N(0, I) to a 4 x 4 checkerboard of side 4/0.45 (facebookresearch/flow_matching's 2-D example)."""
    return _task("gaussian-checkerboard", "N(0,I) to a 4x4 checkerboard, side 8.9", Checkerboard(), None)


def eight_gaussians_moons() -> Task:
    """Eight Gaussians (radius 12, std 1.5) to moons (noise 0.1, standardised, times 7): the runner's ``twodim`` reversed."""
    moons = standardised_moons()
    return _task(
        "8gaussians-moons",
        "8 Gaussians, radius 12, to two moons, scale 7",
        moons,
        moons.mixture(),
        WIDE_EIGHT_GAUSSIANS,
        WIDE_EIGHT_GAUSSIANS,
    )


def moons_8gaussians() -> Task:
    """Moons (noise 0.1, standardised, times 7) to eight Gaussians (radius 12, std 1.5): the runner's ``twodim``."""
    moons = standardised_moons()
    return _task(
        "moons-8gaussians",
        "two moons, scale 7, to 8 Gaussians, radius 12",
        WIDE_EIGHT_GAUSSIANS,
        WIDE_EIGHT_GAUSSIANS,
        moons,
        moons.mixture(),
    )


def quasi_points(mixture: GaussianMixture, n: int, seed: int) -> np.ndarray:
    """``n`` points of a 2-D mixture from a scrambled Sobol sequence: component, then two normals. (n, 2) float64."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    u = qmc.Sobol(3, rng=np.random.default_rng(seed)).random(n)
    component = np.searchsorted(mixture.weights.cumsum(0).numpy(), u[:, 0]).clip(max=len(mixture.means) - 1)
    return mixture.means.numpy()[component] + mixture.stds.numpy()[component] * ndtri(u[:, 1:])


def quasi_checkerboard(n: int, seed: int) -> np.ndarray:
    """The checkerboard from a scrambled Sobol sequence: x, y within a square, choice of the square. (n, 2) float64."""
    from scipy.stats import qmc

    u = qmc.Sobol(3, rng=np.random.default_rng(seed)).random(n)
    x = 4 * u[:, 0] - 2
    y = u[:, 1] + np.where(u[:, 2] < 0.5, -2, 0) + np.floor(x) % 2
    return np.stack([x, y], axis=1) * Checkerboard.scale


def estimate_w2_squared(task: Task, n: int = 4096, seeds: int = 4) -> tuple[float, float]:
    """W2^2 between source and target by exact transport of ``n`` quasi-random points, mean over scramblings, 95 % half-width (Student t).

    Independent points would be far noisier at the same n.
    """
    import ot
    from scipy.stats import t as student

    assert task.source_mixture is not None
    values = []
    for seed in range(seeds):
        x = quasi_points(task.source_mixture, n, 2 * seed)
        target = task.target_mixture
        y = quasi_checkerboard(n, 2 * seed + 1) if target is None else quasi_points(target, n, 2 * seed + 1)
        values.append(ot.emd2([], [], ot.dist(x, y), numItermax=100_000_000))
    half = student.ppf(0.975, seeds - 1) * np.std(values, ddof=1) / math.sqrt(seeds)
    return float(np.mean(values)), float(half)


if __name__ == "__main__":
    for make in (
        gaussian_8gaussians,
        gaussian_moons,
        gaussian_scurve,
        gaussian_checkerboard,
        eight_gaussians_moons,
        moons_8gaussians,
    ):
        value, width = estimate_w2_squared(make())
        print(f'    "{make().name}": ({value:.4f}, {width:.4f}),', flush=True)
