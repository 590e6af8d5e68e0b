"""One-step distillation of a rectified flow: 2209.03003, section 2.3 (k = 1, squared loss)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.flows.flow import LABELS, Flow
from fmbench.flows.flow_map import FlowMap
from fmbench.flows.network import evaluate
from fmbench.methods.base import Batch, BatchSource, Method, keyed_dropout
from fmbench.methods.rectified_flow import pair_batches
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points, Times, squared_norm
from fmbench.tasks.base import Task


class Distill(FlowMap, Method):
    """The map ``x = z + net(z, 0)`` fitted to the teacher's pairs (Z0, Z1) in squared error, started from the teacher's weights.

    It is a map, not a velocity field: exactly one step, no trajectory. On images the paper uses LPIPS; the squared loss is its option "l2".
    """

    summary = "one-step map distilled from a rectified flow"
    reference = "arXiv:2209.03003"
    objective = "E |z + net(z, 0) - Z1(z)|^2 over the pairs (z, Z1) of the teacher"
    most = 1
    needs_base = True

    def __init__(self, net: nn.Module, pairs: int = 65_536, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        Method.__init__(self, net)
        if pairs < 1:
            raise ValueError(f"[method] pairs must be at least 1, got {pairs}")
        self.pairs = pairs
        self.sampler = Sampler("dopri5", options={"rtol": rtol, "atol": atol})

    def batches(self, task: Task, base: Flow | None, batch_size: int) -> BatchSource:
        """See :func:`pair_batches`."""
        return pair_batches(task, base, self.pairs, self.sampler, batch_size, LABELS in self.capabilities)

    def jump(self, x: Points, r: Times, t: Times, cond: Condition | None = None) -> Points:
        """The map from t = 0 to t = 1, the only jump; the times are ignored."""
        return x + evaluate(self.net, x, torch.zeros(len(x), device=x.device), cond=cond)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean squared error per dimension."""
        start = torch.zeros(len(batch.x0), device=batch.x0.device)
        with keyed_dropout(self.net, batch.x0.device, generator):
            error = squared_norm(self.jump(batch.x0, start, start + 1, batch.cond) - batch.x1)
        return error.mean() / batch.x1[0].numel()
