"""Conditional flow matching with independent coupling (I-CFM): Tong et al., TMLR 2024, 2302.00482, section 3.2.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.methods.base import Batch, VelocityMethod
from fmbench.methods.times import WEIGHTINGS, TimeLaw, one_of, weights_at
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
        times: law of the training times, ``uniform`` or ``logit-normal`` (2403.03206).
        time_mean, time_std: of the logit-normal law; a positive mean draws times near the data.
        weighting: whose error is weighed equally at all times: ``velocity``, ``data``, ``noise`` or ``min-snr``, see
            :func:`~fmbench.methods.times.weights_at`.
    """

    summary = "flow matching, independent pairs, x_t = (1-t) x0 + t x1"
    reference = "arXiv:2302.00482"
    objective = "E |v(x_t, t) - (x1 - x0)|^2, x_t ~ N((1-t) x0 + t x1, sigma^2 I), pairs independent"
    path: Path

    def __init__(
        self,
        net: nn.Module,
        sigma: float = 0.0,
        label_dropout: float = 0.1,
        times: str = "uniform",
        time_mean: float = 0.0,
        time_std: float = 1.0,
        weighting: str = "velocity",
    ) -> None:
        super().__init__(net)
        self.path = LinearPath(sigma)
        self.label_dropout = label_dropout
        self.law, self.weighting = TimeLaw(times, time_mean, time_std), one_of("weighting", weighting, WEIGHTINGS)

    def pair(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Re-pair the minibatch; independent coupling leaves it as drawn."""
        return batch

    def weights(self, batch: Batch) -> Tensor | None:
        """Weights of the pairs, (batch,) with mean 1, or None for equal ones."""
        return None

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """See the class."""
        batch = self.pair(batch, generator)
        t = self.law.draw(len(batch.x0), generator).to(batch.x0.device)
        x_t, target = self.path.draw(batch.x0, batch.x1, t, generator)
        error = squared_norm(self.predict(x_t, t, batch, generator) - target) / target[0].numel()
        for weights in (self.weights(batch), weights_at(t, self.weighting)):
            error = error if weights is None else weights * error
        return error.mean()
