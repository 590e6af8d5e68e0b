"""EDM: a preconditioned denoiser over noise levels (Karras et al., 2206.00364)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.flows.converted import Deployed, reading
from fmbench.methods.base import Batch, VelocityMethod
from fmbench.noise import generator as seeded
from fmbench.paths.grids import karras
from fmbench.paths.schedules import VE
from fmbench.shapes import Condition, Points, Times, like, squared_norm
from fmbench.tasks.base import Task

PAPER = 0.5
"""Deviation of the data that the paper's constants are for: images in [-1, 1]."""
RULE_SAMPLES = 4096


class EDM(Deployed, VelocityMethod):
    """Learn the denoiser ``D(y; sigma)`` of ``y = x1 + sigma eps`` at noise levels sigma, wrapped around the network F so that
    input and target of F have unit variance:

        D = c_skip y + c_out F(c_in y, c_noise),   c_skip = sd^2 / (sigma^2 + sd^2),   c_out = sigma sd / sqrt(sigma^2 + sd^2),
        c_in = 1 / sqrt(sigma^2 + sd^2),   loss = E (1 / c_out^2) |D - x1|^2 / dim,   ln sigma ~ N(p_mean, p_std^2)

    (equation 7, table 1). It is sampled by the ODE dy/dsigma = (y - D) / sigma along the paper's grid of levels with euler or heun, and is a
    velocity on the linear path for everything else. The network is told ln sigma, moved to [0, 1] over the levels of the grid; in the paper it
    is told ln sigma / 4.

    Args:
        net: F.
        sigma_data: sd, deviation of the data.
        p_mean, p_std: of ln sigma in training.
        least, most, rho: noise levels of the grid and its power.
        label_dropout: probability of training a conditional network without its label.

    The paper's constants are for data of deviation 0.5; :meth:`parameters_for` scales them to a task.
    """

    summary = "a preconditioned denoiser over noise levels, Heun on a power grid"
    reference = "arXiv:2206.00364"
    objective = "E (1 / c_out^2) |c_skip y + c_out F(c_in y) - x1|^2, y = x1 + sigma eps, ln sigma ~ N(p_mean, p_std^2)"
    gaussian_source_only = True

    def __init__(
        self,
        net: nn.Module,
        sigma_data: float = PAPER,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        least: float = 0.002,
        most: float = 80.0,
        rho: float = 7.0,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__(net)
        if not (sigma_data > 0 and p_std > 0 and 0 < least < most and rho > 0):
            raise ValueError(
                f"[method] needs sigma_data, p_std and rho above 0 and 0 < least < most, got {sigma_data}, {p_std}, {rho}, {least}, {most}"
            )
        self.sigma_data, self.p_mean, self.p_std, self.least, self.most = sigma_data, p_mean, p_std, least, most
        self.label_dropout = label_dropout
        self.reading = reading("edm", VE(least, most), "sigma", 1.0, "xt", karras(least, most, rho))

    @classmethod
    def parameters_for(cls, task: Task) -> Mapping[str, Any]:
        """The paper's constants scaled to the deviation of the task's training data over all dimensions, to two digits."""
        points = task.target.sample(RULE_SAMPLES, seeded(0x71C7, 2)).flatten(1)
        data = float(f"{points.double().var(0).mean().sqrt():.2g}")
        scale = data / PAPER
        rounded = {"least": 0.002 * scale, "most": 80 * scale}
        moved = round(-1.2 + math.log(scale), 3)
        return {"sigma_data": data, "p_mean": moved, **{k: float(f"{v:.2g}") for k, v in rounded.items()}}

    def _scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, and what the network is told, for noise levels of any shape."""
        total = sigma**2 + self.sigma_data**2
        told = (sigma / self.least).log() / math.log(self.most / self.least)
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt(), told

    def velocity(self, x: Points, t: Times, cond: Condition | None = None, guidance: float = 1.0) -> Points:
        """The velocity D - E on the linear path, E the noise that the denoiser leaves."""
        ask = super().velocity

        def denoise(y: Points, sigma: Times) -> Points:
            skip, out, scale, told = self._scales(sigma)
            return like(skip, y) * y + like(out, y) * ask(like(scale, y) * y, told, cond, guidance)

        return self.reading.velocity(denoise, x, t)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See the class."""
        drawn = torch.randn(len(batch.x0), generator=generator).to(batch.x0)
        sigma = (self.p_mean + self.p_std * drawn).exp()
        noisy = batch.x1 + like(sigma, batch.x1) * batch.x0
        skip, out, scale, told = (like(c, noisy) for c in self._scales(sigma))
        denoised = skip * noisy + out * self.predict(scale * noisy, told.flatten(), batch, generator)
        return (squared_norm((denoised - batch.x1) / out) / batch.x1[0].numel()).mean()
