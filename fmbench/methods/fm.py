"""Flow matching conditioned on the data point (FM): Lipman et al., ICLR 2023, 2210.02747, section 4.1, optimal transport path."""

from __future__ import annotations

from torch import nn

from fmbench.methods.cfm import CFM
from fmbench.paths.path import TargetPath


class FM(CFM):
    """CFM on the path ``N(t x1, (1 - (1-sigma) t)^2 I)``; the source must be N(0, I).

    With sigma = 0 this is CFM with sigma = 0 and a Gaussian source, target for target.
    """

    summary = "flow matching conditioned on the target point, Gaussian source"
    reference = "arXiv:2210.02747"
    objective = "E |v(x_t, t) - (x1 - (1-sigma) x0)|^2, x_t = (1 - (1-sigma) t) x0 + t x1, x0 standard normal"
    gaussian_source_only = True

    def __init__(self, net: nn.Module, sigma: float = 0.0, label_dropout: float = 0.1) -> None:
        super().__init__(net, sigma, label_dropout)
        self.path = TargetPath(sigma)
