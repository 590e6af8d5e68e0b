"""One-step distillation of a rectified flow: 2209.03003, section 2.3 (k = 1, squared loss)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.methods.base import Batch, BatchSource, Method, keyed_dropout
from fmbench.methods.rectified_flow import pair_batches
from fmbench.records.sampler import Sampler
from fmbench.shapes import Labels, Points, squared_norm
from fmbench.tasks.base import Task


class Distill(Method):
    """The map ``x = z + net(z, 0)`` fitted to the teacher's pairs (Z0, Z1) in squared error, started from the teacher's weights.

    It is a map, not a velocity field: exactly one step, no trajectory. On images the paper uses LPIPS; the squared loss is its option "l2".
    """

    summary = "one-step map distilled from a rectified flow"
    reference = "arXiv:2209.03003"
    steps_allowed = (1,)
    needs_teacher = True

    def __init__(self, net: nn.Module, pairs: int = 65_536, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        super().__init__(net)
        if pairs < 1:
            raise ValueError(f"[method] pairs must be at least 1, got {pairs}")
        self.pairs = pairs
        self.sampler = Sampler("dopri5", options={"rtol": rtol, "atol": atol})

    def batches(self, task: Task, teacher: Method | None, batch_size: int) -> BatchSource:
        """See :func:`pair_batches`."""
        return pair_batches(task, teacher, self.pairs, self.sampler, batch_size)

    def _map(self, z: Points) -> Points:
        return z + self.net(z, torch.zeros(len(z), device=z.device))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean squared error per dimension."""
        with keyed_dropout(self.net, batch.x0.device, generator):
            error = squared_norm(self._map(batch.x0) - batch.x1)
        return error.mean() / batch.x1[0].numel()

    def sample(self, noise: Points, sampler: Sampler, labels: Labels | None = None) -> Points:
        """One evaluation. Raises ValueError for any other number of steps."""
        if sampler.solver != "euler" or sampler.steps != 1:
            raise ValueError(
                f"a one-step map samples with solver euler, steps 1; got {sampler.solver}, steps {sampler.steps}"
            )
        return self._map(noise)
