"""The honest script: what a user would write to score an image entry with well-known packages, without intervals and without records.

A plain Euler loop for samples, the features of the bundled classifier, moments by NumPy and the square root by SciPy, the kernel distance by
NumPy, precision and recall by the prdc package, trajectories and likelihood by torchdiffeq. Nothing of fmbench's numerics is used:
only its weights, its noise, its data and its feature network, without which the numbers could not be the same.
"""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmbench.zoo.extractors import load_extractor
from fmbench.zoo.model import Model

BATCH = 1000
NEIGHBOURS = 5
LEVELS = 17
"""Grey levels of digits."""


@dataclass(frozen=True)
class Setting:
    """How much is computed: samples per Euler grid, trajectories and steps of the solve, images and steps of the likelihood."""

    samples: int
    grids: tuple[int, ...]
    trajectories: int
    steps: int
    images: int
    probe_steps: int


def velocity(net: torch.nn.Module, t: Tensor, x: Tensor) -> Tensor:
    """v(x, t) for one time."""
    return net(x, t.to(x).expand(len(x)))


@torch.no_grad()
def euler(net: torch.nn.Module, x: Tensor, steps: int) -> Tensor:
    """The loop of every tutorial: uniform steps from t = 0 to t = 1, in batches."""
    parts = []
    for part in x.split(BATCH):
        for k in range(steps):
            part = part + velocity(net, torch.tensor(k / steps), part) / steps
        parts.append(part)
    return torch.cat(parts)


@torch.no_grad()
def straightness(net: torch.nn.Module, x0: Tensor, steps: int) -> float:
    """Mean of int |x1 - x0 - v|^2 dt: RK4 by torchdiffeq, integrated by Simpson's rule."""
    from scipy.integrate import simpson
    from torchdiffeq import odeint

    times = torch.linspace(0, 1, steps + 1)
    path = odeint(lambda t, x: velocity(net, t, x), x0, times, method="rk4", options={"perturb": False})
    apart = [
        (path[-1] - x0 - velocity(net, t, x)).flatten(1).square().sum(dim=1) for t, x in zip(times, path, strict=True)
    ]
    return float(simpson(torch.stack(apart).double().numpy(), x=times.numpy(), axis=0).mean())


def bits(net: torch.nn.Module, images: Tensor, steps: int, random: torch.Generator) -> float:
    """Bits per dimension: reverse mode Hutchinson, one probe, RK4 by torchdiffeq backward in time."""
    from torchdiffeq import odeint

    half = 1 / (LEVELS - 1)
    x1 = images + half * (2 * torch.rand(images.shape, generator=random) - 1)
    probe = torch.randint(0, 2, images.shape, generator=random).float() * 2 - 1

    def augmented(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            v = velocity(net, t, x)
            (product,) = torch.autograd.grad(v, x, probe)
        return v.detach(), (product * probe).flatten(1).sum(dim=1)

    times = torch.linspace(1, 0, steps + 1)
    x, change = (part[-1] for part in odeint(augmented, (x1, torch.zeros(len(x1))), times, method="rk4"))
    d = images[0].numel()
    log_density = -0.5 * x.flatten(1).square().sum(dim=1) - 0.5 * d * math.log(2 * math.pi) + change
    return float(-log_density.mean()) / (d * math.log(2)) - math.log2(2 * half)


def frechet(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    """As pytorch-fid writes it."""
    from scipy.linalg import sqrtm

    root = sqrtm(cov1 @ cov2)
    return float(((mu1 - mu2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * np.real(root)))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """KID over all pairs; torchmetrics and clean-fid average it over subsets of equal size, which these sets do not have."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def distances(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The numbers of features (n, f) beside those of the training images."""
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        shares = compute_prdc(real, fake, NEIGHBOURS)
    return {
        "frechet_distance": frechet(fake.mean(0), np.cov(fake.T), real.mean(0), np.cov(real.T)),
        "kernel_distance": kernel_distance(fake, real),
        "precision": float(shares["precision"]),
        "recall": float(shares["recall"]),
    }


def scored(model: Model, setting: Setting) -> dict[str, float]:
    """Every number of the script, by ``metric@steps``, and those of the flow by their name."""
    net = model.method.net
    extractor = load_extractor(model.task.extractor or "")
    network = torch.no_grad()(extractor.network)

    def features(images: Tensor) -> np.ndarray:
        return torch.cat([network(part.clamp(-1, 1))[0] for part in images.split(BATCH)]).double().numpy()

    real = features(model.task.target.points()[0])  # type: ignore[attr-defined]
    noise = model.noise(0, setting.samples, 0)
    found = {}
    for steps in setting.grids:
        numbers = distances(features(euler(net, noise, steps)), real)
        found |= {f"{name}@{steps}": value for name, value in numbers.items()}
    found["straightness"] = straightness(net, noise[: setting.trajectories], setting.steps)
    images = model.task.heldout.points()[0][: setting.images]  # type: ignore[attr-defined]
    found["bits_per_dimension"] = bits(net, images, setting.probe_steps, torch.Generator().manual_seed(0))
    return found
