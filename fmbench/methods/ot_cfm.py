"""Flow matching with minibatch optimal transport (OT-CFM): 2302.00482, section 3.2.2; also Pooladian et al., 2304.14772."""

from __future__ import annotations

import torch
from torch import nn

from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.paths.couplings import exact_pairs, redrawn


class OTCFM(CFM):
    """CFM on pairs re-matched by the exact optimal assignment of every minibatch under ``||x0 - x1||^2``.

    Labels travel with ``x1``. For conditional networks this biases the source given a class (C2OT, 2503.10636): the paper's method is
    implemented as published.

    Args:
        replacement: draw the pairs of a batch from its plan with replacement, as torchcfm does, rather than each of them once: some points are
            doubled and others left out, which adds variance.
    """

    summary = "flow matching, pairs from minibatch optimal transport"
    reference = "arXiv:2302.00482"
    objective = "E |v(x_t, t) - (x1 - x0)|^2, pairs from the optimal assignment of every minibatch under |x0 - x1|^2"

    def __init__(
        self, net: nn.Module, sigma: float = 0.0, label_dropout: float = 0.1, replacement: bool = False
    ) -> None:
        super().__init__(net, sigma, label_dropout)
        self.replacement = replacement

    def pair(self, batch: Batch, generator: torch.Generator) -> Batch:
        """See the class."""
        i, j = exact_pairs(batch.x0, batch.x1, batch.labels)
        if self.replacement:
            i, j = redrawn(i, j, generator)
        return Batch(batch.x0[i], batch.x1[j], None if batch.labels is None else batch.labels[j])
