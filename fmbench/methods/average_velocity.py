"""What methods that train an average velocity share: a network of two times, and its evaluation in training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from fmbench.flows.average_velocity import AverageVelocity
from fmbench.methods.base import Batch, Method, keyed_dropout
from fmbench.methods.times import TimeLaw
from fmbench.paths.path import LinearPath
from fmbench.shapes import Condition, Points, Times, squared_norm
from fmbench.tasks.base import Task


class AverageVelocityMethod(AverageVelocity, Method):
    """A method for ``u(x_r, r, t)`` on the paths ``x_t = (1-t) x0 + t x1``. The closed division takes its network: 1 to 4 % larger.

    The first rows of a batch, a share ``apart``, have two different times; all others have t = r and are flow matching.

    Attributes:
        law: how times are drawn.
        apart: share of the rows with t != r.
    """

    path: ClassVar[LinearPath] = LinearPath()
    law: TimeLaw = TimeLaw()
    apart: float

    @classmethod
    def build_net(cls, task: Task, net: dict, conditional: bool) -> nn.Module:
        """The network of the recipe with a second time."""
        return super().build_net(task, {**net, "second_time": True}, conditional)

    def mapped(self, batch: Batch) -> int:
        """The number of rows with t != r, which come first."""
        return round(self.apart * len(batch.x0))

    def two_times(self, batch: Batch, generator: torch.Generator) -> tuple[Times, Times]:
        """``r <= t``, (batch,) each: the smaller and the larger of two draws in the first rows, the smaller twice in all others."""
        count, device = len(batch.x0), batch.x0.device
        one, other = self.law.draw(count, generator), self.law.draw(count, generator)
        r, apart = torch.minimum(one, other), torch.arange(count) < self.mapped(batch)
        return r.to(device), torch.where(apart, torch.maximum(one, other), r).to(device)

    def trained(self, x: Points, r: Times, t: Times, batch: Batch, generator: torch.Generator) -> Points:
        """u(x, r, t) with its dropout, if it has any, determined by the generator."""
        with keyed_dropout(self.net, x.device, generator):
            return self.average(x, r, t, self.known(batch))

    def known(self, batch: Batch, rows: slice = slice(None)) -> Condition | None:
        """The labels of some rows of the batch, for a network that takes them."""
        cond = batch.cond if getattr(self.net, "num_classes", 0) else None
        return None if cond is None else cond.rows(rows)


def require_share(**shares: float) -> None:
    """Raise ValueError for a share outside [0, 1]; keywords are names of parameters."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"[method] {name} must be in [0, 1], got {share}")


def per_dimension(prediction: Points, target: Points) -> Tensor:
    """Mean over the batch of the squared error divided by the number of dimensions, as the loss of ``cfm``; the target has no gradient."""
    return squared_norm(prediction - target.detach()).mean() / target[0].numel()


def derivative(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value and the Jacobian-vector product of a function, both differentiable by the weights."""
    with warnings.catch_warnings():
        # The first product of a process makes torch load what it has deprecated itself.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        return torch.func.jvp(function, at, along)  # type: ignore[return-value]
