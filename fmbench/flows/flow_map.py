"""A map between two times, evaluated jump by jump: one-step and few-step models."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar

import torch

from fmbench.flows.flow import FLOW_MAP, LABELS, Flow, as_draws
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points, Times, as_condition


class FlowMap(Flow):
    """A map from the state at a time ``r`` to that at a later time ``t``. It follows the solver ``euler``, whose steps are its jumps.

    Attributes:
        most: the most jumps that it was trained for, None for any number.
        noisy: whether a jump that does not end in the data takes fresh standard normal noise, as keyword ``noise``.
    """

    default: ClassVar[Sampler] = Sampler("euler", 1)
    most: int | None = None
    noisy: ClassVar[bool] = False

    @property
    def capabilities(self) -> frozenset[str]:
        """A map, and labels where its network takes them."""
        return frozenset({FLOW_MAP, *({LABELS} if getattr(self.net, "num_classes", 0) else ())})

    def accepts(self, sampler: Sampler) -> str | None:
        """A reason for every solver but ``euler``, for more jumps than it was trained for, and for guidance."""
        few = self.most is not None and (sampler.steps is None or sampler.steps > self.most)
        if sampler.solver != "euler" or few:
            steps = "" if self.most is None else " and 1 step" if self.most == 1 else f" and at most {self.most} steps"
            return f"this model samples with euler{steps} only"
        return None if sampler.guidance == 1 else "guidance needs a velocity field, and this model is a map"

    @abstractmethod
    def jump(self, x: Points, r: Times, t: Times, cond: Condition | None = None) -> Points:
        """The state at ``t``, (batch, *shape), of points that are at ``x`` at ``r``; times of shape (batch,)."""

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """Jump along the grid from t = 0 to t = 1. Raises ValueError for a sampler that it does not accept."""
        self.require(sampler)
        draws, cond = as_draws(draws), as_condition(cond)
        x = draws.start()
        for step, (start, stop) in enumerate(pairwise(sampler.times().tolist())):
            r, t = (torch.full((len(x),), time, dtype=x.dtype, device=x.device) for time in (start, stop))
            drawn = {"noise": draws.normal(tuple(x.shape[1:]), step)} if self.noisy and stop < 1 else {}
            x = self.jump(x, r, t, cond, **drawn)
        return x
