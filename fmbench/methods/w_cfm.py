"""Weighted conditional flow matching (W-CFM): 2507.22270."""

from __future__ import annotations

from torch import Tensor, nn

from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.paths.couplings import gibbs_weights


class WCFM(CFM):
    """CFM whose independent pairs are weighted by ``exp(-||x0 - x1|| / epsilon)``, divided by the batch mean.

    The weights imitate entropic transport without solving it, at the price of tilting both marginals; epsilon -> infinity is CFM.
    """

    summary = "flow matching, independent pairs weighted by exp(-distance / epsilon)"
    reference = "arXiv:2507.22270"

    def __init__(self, net: nn.Module, epsilon: float = 1.0, sigma: float = 0.0, label_dropout: float = 0.1) -> None:
        super().__init__(net, sigma, label_dropout)
        self.epsilon = epsilon

    def weights(self, batch: Batch) -> Tensor:
        """See the class."""
        return gibbs_weights(batch.x0, batch.x1, self.epsilon)
