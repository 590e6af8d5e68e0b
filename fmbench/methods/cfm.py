"""Conditional flow matching with independent coupling (I-CFM): Tong et al., TMLR 2024, 2302.00482, section 3.2.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.methods.base import Batch, VelocityMethod, uniform_times
from fmbench.paths.path import LinearPath, Path
from fmbench.shapes import squared_norm


class CFM(VelocityMethod):
    """Regress ``v(x_t, t)`` on ``x1 - x0``, ``x_t ~ N((1-t) x0 + t x1, sigma^2 I)``, pairs independent.

    Loss: mean over the batch of the squared error *summed* over dimensions and divided by their number. It is bounded below by
    the variance of ``x1 - x0`` given ``x_t``, not by 0.

    Args:
        net: velocity network.
        sigma: width of the conditional path; blurs both ends when positive.
        label_dropout: probability of training a conditional network without its label, for guidance.
    """

    summary = "flow matching, independent pairs, x_t = (1-t) x0 + t x1"
    reference = "arXiv:2302.00482"
    path: Path

    def __init__(self, net: nn.Module, sigma: float = 0.0, label_dropout: float = 0.1) -> None:
        super().__init__(net)
        self.path = LinearPath(sigma)
        self.label_dropout = label_dropout

    def pair(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Re-pair the minibatch; independent coupling leaves it as drawn."""
        return batch

    def weights(self, batch: Batch) -> Tensor | None:
        """Weights of the pairs, (batch,) with mean 1, or None for equal ones."""
        return None

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See the class."""
        batch = self.pair(batch, generator)
        t = uniform_times(batch, generator)
        x_t, target = self.path.draw(batch.x0, batch.x1, t, generator)
        error = squared_norm(self.predict(x_t, t, batch, generator) - target) / target[0].numel()
        weights = self.weights(batch)
        return error.mean() if weights is None else (weights * error).mean()
