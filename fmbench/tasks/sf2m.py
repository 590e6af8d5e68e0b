"""The finite 2-D data sets of torchcfm's runner (2302.00482, 2307.03672, table 2 of both): points to train on, to validate and to test.

The tasks of :mod:`fmbench.tasks.toys` draw every batch fresh from the same geometry and measure the distance to the distribution. Here a model
sees 10,000 fixed points and is compared with 1,000 fixed test points, as the published numbers are. The runner's own random numbers are not
reproduced: its points are another draw of the same size and construction.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache

import torch

from fmbench.noise import generator
from fmbench.shapes import Points
from fmbench.tasks.base import StandardNormal, Task
from fmbench.tasks.toys import CLOSED_NET, EIGHT_GAUSSIANS, MOONS, W2_SQUARED, Moons

TRAIN, VALIDATION, TEST = 10_000, 1_000, 1_000
SPLIT_SEED = 42
RUNNER_TRAIN = {
    "steps": 20_000, "batch_size": 512, "lr": 1e-3, "weight_decay": 1e-5, "schedule": "constant", "ema": 0.0,
}  # fmt: skip
"""Training of the runner: about 1,000 epochs of 20 batches, AdamW at a constant rate, no average of the weights."""


class FixedPoints:
    """A finite set of points, drawn with replacement."""

    def __init__(self, points: Points) -> None:
        self._points = points

    @property
    def sha256(self) -> str:
        """Hash of the points as float32."""
        return hashlib.sha256(self._points.numpy().tobytes()).hexdigest()

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """See :class:`~fmbench.tasks.base.Distribution`."""
        return self._points[torch.randint(len(self._points), (n,), generator=generator)]

    def points(self) -> tuple[Points, None]:
        """All points in their order; they have no labels."""
        return self._points, None


def _split(points: Points) -> list[FixedPoints]:
    """Shuffled by a fixed seed and cut into training, validation and test points."""
    order = torch.randperm(len(points), generator=generator(SPLIT_SEED))
    return [FixedPoints(points[part].float().contiguous()) for part in order.split((TRAIN, VALIDATION, TEST))]


def _even_gaussians(count: int) -> Points:
    """``count`` points, as many of each of the eight Gaussians (torchdyn's ``generate_gaussians``)."""
    random = generator(SPLIT_SEED, 1)
    means = EIGHT_GAUSSIANS.means.repeat_interleave(count // 8, 0)
    return means + torch.randn(means.shape, generator=random, dtype=means.dtype)


def _even_moons(count: int) -> Points:
    """``count`` points at equal distances on the two half circles, blurred (scikit-learn's ``make_moons``)."""
    angle = torch.linspace(0, math.pi, count // 2).repeat(2)
    inner = torch.arange(count) >= count // 2
    blur = MOONS.noise * torch.randn((count, 2), generator=generator(SPLIT_SEED, 2))
    return MOONS.scale * (Moons.curve(angle, inner) + blur) + MOONS.shift


def _task(name: str, summary: str, points: Points, same: str) -> Task:
    train, validation, test = _split(points)
    return Task(
        name=name,
        version=1,
        summary=summary,
        kind="vector",
        shape=(2,),
        source=StandardNormal((2,)),
        target=train,
        heldout=validation,
        reference=test,
        net=CLOSED_NET,
        train=RUNNER_TRAIN,
        w2_squared=W2_SQUARED[same],
    )


@cache
def gaussians() -> Task:
    """N(0, I) to 12,000 points of eight Gaussians of std 1 on a circle of radius 5."""
    return _task(
        "sf2m-gaussians", "N(0,I) to 10,000 fixed points of 8 Gaussians", _even_gaussians(12_000), "gaussian-8gaussians"
    )


@cache
def moons() -> Task:
    """N(0, I) to 12,000 points of two moons of noise 0.05, times 2, minus 1."""
    return _task("sf2m-moons", "N(0,I) to 10,000 fixed points of two moons", _even_moons(12_000), "gaussian-moons")
