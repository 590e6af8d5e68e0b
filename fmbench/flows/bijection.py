"""A bijection between source and data: a normalizing flow, whose density is exact (Rezende & Mohamed, 1505.05770)."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from fmbench.flows.flow import EXACT_DENSITY, INVERSE, Flow, as_draws
from fmbench.noise import Draws
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, Points, as_condition

SOLVER = "inverse"
"""The sampler of a bijection: one pass from the source to the data."""


class Bijection(Flow):
    """An invertible map ``z = f(x)`` from data to source, with its log determinant. It takes no steps: its sampler is ``inverse``."""

    default: ClassVar[Sampler] = Sampler(SOLVER)

    @property
    def capabilities(self) -> frozenset[str]:
        """An exact density, and the inverse map."""
        return frozenset({EXACT_DENSITY, INVERSE})

    def accepts(self, sampler: Sampler) -> str | None:
        """A reason for every sampler but ``inverse``, which has no steps, no grid and no guidance."""
        fine = sampler.solver == SOLVER and sampler.steps is None and sampler.grid is None and sampler.guidance == 1
        return None if fine else "this model is a bijection, sampled by the solver inverse without steps"

    @abstractmethod
    def forward_with_logdet(self, x: Points, cond: Condition | None = None) -> tuple[Points, Tensor]:
        """``z = f(x)``, (batch, *shape), and ``log |det df/dx|``, (batch,)."""

    @abstractmethod
    def invert(self, z: Points, cond: Condition | None = None) -> Points:
        """``x = f^-1(z)``, (batch, *shape)."""

    @abstractmethod
    def source_log_density(self, z: Points) -> Tensor:
        """Log density of the source in nats, (batch,)."""

    def log_density(self, x: Points, cond: Condition | None = None) -> Tensor:
        """Exact log density of data points in nats, (batch,), by the change of variables."""
        z, logdet = self.forward_with_logdet(x, as_condition(cond))
        return self.source_log_density(z) + logdet

    def sample(self, draws: Draws, sampler: Sampler, cond: Condition | None = None) -> Points:
        """The source points mapped to data. Raises ValueError for another sampler than ``inverse``."""
        self.require(sampler)
        return self.invert(as_draws(draws).start(), as_condition(cond))
