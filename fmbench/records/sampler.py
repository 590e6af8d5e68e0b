"""The one description of how samples are drawn: read from protocols, handed to methods, written in results, a column of every table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fmbench.registry import SOLVERS

if TYPE_CHECKING:
    from torch import Tensor

    from fmbench.solvers.base import Solver

MOST_STEPS = 100_000
"""Upper limit of steps, to catch typing errors: no protocol, paper or solver comes near."""
ONE_PASS = ("inverse",)
"""Samplers without steps that take one pass; unlike adaptive solvers they have a number of evaluations known beforehand."""
UNSAMPLED = "none"
"""Solver of rows that were not sampled: real data, and samples that exist already."""


@dataclass(frozen=True)
class Sampler:
    """The settings that samples are drawn with.

    Attributes:
        solver: registry name of the solver.
        steps: number of steps, None for a solver that chooses them and where ``grid`` gives the times.
        grid: explicit times from 0 to 1, for learned schedules; equally spaced when None.
        guidance: classifier-free guidance scale, 1 for none; needs labels.
        options: what else the solver takes, by name: ``rtol``, ``atol`` and ``most_steps`` of adaptive ones.

    Raises ValueError for steps that are no whole number from 1 to :data:`MOST_STEPS`, and for a guidance that is not finite.
    """

    solver: str = "euler"
    steps: int | None = None
    grid: tuple[float, ...] | None = None
    guidance: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        steps = self.steps
        if steps is not None and (
            not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MOST_STEPS
        ):
            raise ValueError(
                f"{self.solver} needs steps, a whole number of at least 1 and at most {MOST_STEPS}, got {steps}"
            )
        if isinstance(self.guidance, bool) or not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be a finite number, 1 for none, got {self.guidance}")

    @property
    def label(self) -> str:
        """Short name for files and tables: ``euler-8``, ``dopri5``, ``euler-8-g2``."""
        steps = [] if self.steps is None else [str(self.steps)]
        guided = [] if self.guidance == 1 else [f"g{self.guidance:g}"]
        return "-".join([self.solver, *steps, *guided])

    def make_solver(self) -> Solver:
        """The solver with its options.

        Raises UnknownName for an unknown solver, ValueError for options that it does not take, for a solver on a fixed grid without
        steps, and for steps of a solver that chooses its own.
        """
        kind = SOLVERS.resolve(self.solver)
        if (kind.adaptive or kind.stepless) and self.steps is not None:
            takes = "chooses its steps" if kind.adaptive else "takes no steps"
            raise ValueError(f"{self.solver} {takes}; leave steps = {self.steps} out")
        if not (kind.adaptive or kind.stepless) and self.steps is None and self.grid is None:
            raise ValueError(f"{self.solver} needs steps, a whole number of at least 1")
        try:
            return kind(**self.options)
        except TypeError:
            raise ValueError(f"{self.solver} does not take all of the options {', '.join(self.options)}") from None

    def times(self) -> Tensor:
        """The time grid, float64, from 0 to 1; its two ends for a solver that chooses its steps. Raises ValueError for any other grid."""
        import torch

        from fmbench.solvers.base import checked_grid, uniform_grid

        if self.grid is None:
            return uniform_grid(self.steps or 1)
        grid = checked_grid(torch.tensor(self.grid, dtype=torch.float64))
        if grid[0] != 0 or grid[-1] != 1:
            raise ValueError(f"a sampling grid must run from 0 to 1, got {grid[0]:g} to {grid[-1]:g}")
        return grid
