"""Schroedinger bridge flow matching (SB-CFM): 2302.00482, section 3.2.3."""

from __future__ import annotations

import torch
from torch import nn

from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.paths.couplings import entropic_pairs, redrawn
from fmbench.paths.path import BridgePath


class SBCFM(CFM):
    """CFM on Brownian bridges of width ``sigma`` between pairs of the entropic minibatch plan with regularisation ``2 sigma^2``.

    Args:
        replacement: draw the ``x0`` of the pairs with replacement too, as torchcfm does; otherwise each ``x0`` has one partner, drawn from its
            row of the plan.

    Raises ValueError in training when Sinkhorn does not converge: sigma is too small for the scale of the data.
    """

    summary = "flow matching on Brownian bridges, pairs from entropic optimal transport"
    reference = "arXiv:2302.00482"
    objective = "E |v(x_t, t) - u_t|^2 on Brownian bridges of width sigma, pairs from the entropic minibatch plan"

    def __init__(
        self, net: nn.Module, sigma: float = 1.0, label_dropout: float = 0.1, replacement: bool = False
    ) -> None:
        super().__init__(net, sigma, label_dropout)
        self.sigma, self.replacement = sigma, replacement
        self.path = BridgePath(sigma)

    def pair(self, batch: Batch, generator: torch.Generator) -> Batch:
        """See the class."""
        i, j = entropic_pairs(batch.x0, batch.x1, 2 * self.sigma**2, generator)
        if self.replacement:
            i, j = redrawn(i, j, generator)
        return Batch(batch.x0[i], batch.x1[j], None if batch.labels is None else batch.labels[j])
