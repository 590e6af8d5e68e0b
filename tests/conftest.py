"""Shared fixtures: one thread, the Gaussian flow whose every figure is known, and a tiny trained zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fmbench.noise import generator
from fmbench.records.recipe import Recipe, closed, override
from fmbench.registry import TASKS
from fmbench.tasks.base import StandardNormal, Task
from fmbench.tasks.mixture import GaussianMixture
from fmbench.zoo import catalogue

torch.set_num_threads(1)

MEAN, STD = 2.0, 0.5


class GaussianVelocity(nn.Module):
    """Marginal velocity from N(0, 1) to N(2, 0.5^2), independent pairs, written out for one Gaussian; flow map x0 -> 2 + x0 / 2."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        s = t.reshape(-1, *([1] * (x.ndim - 1)))
        slope = (s * STD**2 - (1 - s)) / ((1 - s) ** 2 + s**2 * STD**2)
        return MEAN + slope * (x - s * MEAN)


class StraightVelocity(nn.Module):
    """The 2-rectified velocity of the same flow: every trajectory is the chord from z to 2 + z / 2, at constant speed."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        s = t.reshape(-1, *([1] * (x.ndim - 1)))
        start = (x - MEAN * s) / (1 - s + STD * s)
        return MEAN + (STD - 1) * start


@dataclass(frozen=True)
class GaussianFlow:
    """Everything known of the 1-D flow N(0, 1) -> N(2, 0.5^2)."""

    task: Task
    velocity: nn.Module
    straight: nn.Module
    mean: float = MEAN
    std: float = STD

    def endpoint(self, x0: Tensor) -> Tensor:
        return self.mean + self.std * x0

    def pairs(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        random = generator(seed)
        return torch.randn((n, 1), generator=random), self.endpoint(torch.randn((n, 1), generator=random))


@pytest.fixture(scope="session")
def gaussian_flow() -> GaussianFlow:
    target = GaussianMixture(torch.tensor([[MEAN]]), torch.tensor(STD))
    task = Task(
        name="gaussian-1d",
        version=1,
        summary="N(0, 1) to N(2, 0.5^2)",
        kind="vector",
        shape=(1,),
        source=StandardNormal((1,)),
        target=target,
        heldout=target,
        source_mixture=GaussianMixture(torch.zeros(1, 1), torch.tensor(1.0)),
        target_mixture=target,
    )
    return GaussianFlow(task, GaussianVelocity(), StraightVelocity())


@pytest.fixture(scope="session")
def seeded() -> Callable[..., nn.Module]:
    """``seeded(make, seed)``: modules initialise from torch's global generator; seed it and put it back."""

    def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            return make()

    return build


def tiny(task: str, method: str, /, **settings: object) -> Recipe:
    """A recipe of a few steps of a few units."""
    small = {"net": {"name": "mlp", "width": 16, "depth": 2}, "train.steps": 30, "train.batch_size": 32}
    fields = {k: settings.pop(k) for k in ("conditional", "teacher") if k in settings}
    return override(closed(TASKS.resolve(task)(), method, **fields), {**small, **settings})


@pytest.fixture(scope="session")
def tiny_recipe() -> Callable[..., Recipe]:
    """``tiny_recipe(task, method, **overrides)``."""
    return tiny


@pytest.fixture(scope="session")
def trained_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo folder with two entries trained for a few steps; read-only for the tests that share it."""
    from fmbench.training.run import train

    root = tmp_path_factory.mktemp("zoo")
    train(tiny("gaussian-8gaussians", "cfm"), root / "gaussian-8gaussians" / "tiny")
    train(tiny("digits", "cfm", conditional=True), root / "digits" / "tiny-conditional")
    return root


@pytest.fixture
def zoo(trained_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny zoo in the place of the bundled one."""
    real = catalogue.data_folder
    monkeypatch.setattr(catalogue, "data_folder", lambda name: trained_zoo if name == "zoo" else real(name))
    return trained_zoo
