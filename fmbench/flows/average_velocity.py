"""A map between two times by its average velocity: ``x_t = x_r + (t - r) u(x_r, r, t)``."""

from __future__ import annotations

from typing import ClassVar

from fmbench.execution.checked import checked_points
from fmbench.flows.flow import FLOW_MAP, VELOCITY
from fmbench.flows.flow_map import FlowMap
from fmbench.flows.network import evaluate
from fmbench.flows.velocity import VelocityFlow
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points, Times, like


class AverageVelocity(FlowMap, VelocityFlow):
    """The mean ``u(x_r, r, t)`` of the velocity on the way from ``r`` to ``t >= r``, by a network of two times.

    ``euler`` jumps, once for each of its steps. Where both times are equal u is the velocity itself, so that every other solver integrates
    ``v(x, t) = u(x, t, t)``, and whatever needs a velocity field finds one.
    """

    default: ClassVar[Sampler] = Sampler("euler", 1)

    @property
    def capabilities(self) -> frozenset[str]:
        """Those of a velocity field, and a map."""
        return VelocityFlow.capabilities.fget(self) | {FLOW_MAP}  # type: ignore[attr-defined]

    def accepts(self, sampler: Sampler) -> str | None:
        """The reasons of :class:`FlowMap` for ``euler``, those of a velocity field for all other solvers."""
        return (FlowMap if sampler.solver == "euler" else VelocityFlow).accepts(self, sampler)

    def average(self, x: Points, r: Times, t: Times, cond: Condition | None = None) -> Points:
        """u(x, r, t), (batch, *shape), at points that are at ``x`` at the time ``r``."""
        return evaluate(self.net, x, t, r=r, cond=cond)

    def jump(self, x: Points, r: Times, t: Times, cond: Condition | None = None) -> Points:
        """See :meth:`FlowMap.jump`."""
        return x + like(t - r, x) * self.average(x, r, t, cond)

    def velocity(self, x: Points, t: Times, cond: Condition | None = None, guidance: float = 1.0) -> Points:
        """v(x, t) = u(x, t, t). Raises ValueError for guidance, and when the network returns anything but points like ``x``."""
        if guidance != 1:
            raise ValueError(f"guidance must be 1 for an average velocity, got {guidance}")
        return checked_points(self.average(x, t, t, cond), x, VELOCITY)

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """Jump with ``euler``, else integrate the velocity. Raises ValueError for a sampler that it does not accept."""
        self.require(sampler)
        return (FlowMap if sampler.solver == "euler" else VelocityFlow).sample(self, draws, sampler, cond)
