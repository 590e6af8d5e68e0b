"""The exact marginal velocity, known in closed form when source and target are Gaussian mixtures; nothing is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.methods.base import Batch, VelocityMethod
from fmbench.tasks.base import Task
from fmbench.tasks.mixture import MixtureVelocity

POINT = 0.02
"""Standard deviation below which a component is a point to a solver of a few dozen steps: held-out digits (0.0125), which lie between the
points, would get less than half the bits of the closed form."""


class Oracle(VelocityMethod):
    """What CFM with independent pairs and sigma = 0 would learn from infinite data with an unlimited network.

    On a finite data set (digits) the target is the empirical distribution: the oracle reproduces training images. It bounds the
    distances from below and shows what memorisation scores.
    """

    summary = "closed-form marginal velocity of the independent coupling"
    reference = "arXiv:2210.02747, theorem 1"
    objective = "none: v(x, t) = E[x1 - x0 | x_t = x] in closed form"
    trains = False
    outside = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.has_density = bool((net.stop_std > POINT).all())  # type: ignore[operator]
        self.has_score = bool((net.start == 0).all() and (net.start_std == 1).all())  # type: ignore[union-attr]

    @classmethod
    def build_net(cls, task: Task, net: dict, conditional: bool) -> nn.Module:  # noqa: ARG003
        """The closed form as a module. Raises ValueError when the task has none."""
        if task.source_mixture is None or task.target_mixture is None:
            raise ValueError(f"task {task.name!r} has no closed-form velocity, so it has no oracle")
        return MixtureVelocity(task.source_mixture, task.target_mixture)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Raises ValueError: there is nothing to train."""
        raise ValueError("the oracle is a closed form and is not trained; use it with `fmbench run`")
