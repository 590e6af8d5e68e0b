"""Immiscible diffusion: noise is assigned to data so that far pairs do not mix (Li et al., 2406.12303)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.noise import draw
from fmbench.paths.couplings import costs
from fmbench.shapes import squared_norm
from fmbench.tasks.base import Task
from fmbench.transport.exact import assignment

CHECKED = 4096


class Immiscible(CFM):
    """CFM on the linear assignment of the noises of a batch to its data by the Euclidean distance (algorithm 1 of the paper).

    OT-CFM assigns by the squared distance, which is ``squared = True`` bit by bit where no points of a batch are the same.

    Args:
        squared: assign by the square of the distance.
    """

    summary = "flow matching, noises assigned to data within a batch by distance"
    reference = "arXiv:2406.12303"
    objective = (
        "E |v(x_t, t) - (x1 - x0)|^2, pairs from the assignment of every minibatch with the least sum of |x0 - x1|"
    )

    def __init__(self, net: nn.Module, sigma: float = 0.0, label_dropout: float = 0.1, squared: bool = False) -> None:
        super().__init__(net, sigma, label_dropout)
        self.squared = squared

    def pair(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with its data permuted; labels go with them."""
        cost = costs(batch.x0, batch.x1)
        partners = torch.from_numpy(assignment(cost if self.squared else np.sqrt(cost)).partners)
        labels = None if batch.labels is None else batch.labels[partners]
        return Batch(batch.x0, batch.x1[partners], labels)


class ImmiscibleKNN(CFM):
    """CFM where every datum takes the nearest of ``k`` noises of its own (the paper's later version: no assignment to solve).

    k = 1 is CFM. For k > 1 the noises that are used are no longer N(0, I): nearest ones lie on the side of the data, so training sees another
    source than sampling starts from. :meth:`diagnostics` measures how far.

    Args:
        k: noises drawn for every datum.
    """

    summary = "flow matching, every datum takes the nearest of k noises"
    reference = "arXiv:2406.12303"
    objective = "E |v(x_t, t) - (x1 - x0)|^2, x0 the nearest to x1 of k draws from N(0, I)"
    gaussian_source_only = True

    def __init__(self, net: nn.Module, sigma: float = 0.0, label_dropout: float = 0.1, k: int = 4) -> None:
        super().__init__(net, sigma, label_dropout)
        if not 1 <= k <= 1024:
            raise ValueError(f"[method] k must be from 1 to 1024, got {k}")
        self.k = k

    def pair(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with the nearest of its noise and ``k - 1`` others for every datum."""
        best, x1 = batch.x0, batch.x1
        nearest = squared_norm(best - x1)
        for _ in range(self.k - 1):
            other = torch.randn(best.shape, generator=generator, dtype=best.dtype).to(best.device)
            distance = squared_norm(other - x1)
            closer = distance < nearest
            best = torch.where(closer.view(-1, *[1] * (best.ndim - 1)), other, best)
            nearest = torch.minimum(nearest, distance)
        return Batch(best, x1, batch.labels)

    def diagnostics(self, task: Task) -> dict[str, float]:
        """Bias of the prior: length of the mean of the noises that are used, and their variance per dimension, 0 and 1 for N(0, I)."""
        x0, x1 = (draw(d.sample, 0, CHECKED, 0, "choice", k) for k, d in enumerate((task.source, task.target)))
        used = self.pair(Batch(x0, x1), torch.Generator().manual_seed(0)).x0.flatten(1).double()
        return {"prior_mean": float(used.mean(0).norm()), "prior_variance": float(used.var(0).mean())}
