"""A model that another library trained and published: its network is read as a velocity and stepped through on its own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.flows.converted import Deployed, reading
from fmbench.methods.base import Batch, VelocityMethod
from fmbench.paths.grids import Grid, indices, karras, named
from fmbench.paths.schedules import DDPM, VE, Schedule, table
from fmbench.shapes import Condition, Points, Times


class Published(Deployed, VelocityMethod):
    """Weights of another library, under the names that it gave them; nothing is trained.

    Args:
        net: the network, one of :mod:`fmbench.nets.published`.
        predicts, schedule, time, time_scale: how it is read (:func:`fmbench.wrap` says what the words mean).
        grid: name of the grid it is deployed with (:func:`fmbench.paths.grids.named`), empty for equal steps; ``shift`` of that grid.
        betas, beta_kind: first and last beta of the table of ``schedule = "ddpm"``, and how they are spaced
            (:func:`fmbench.paths.schedules.table`); ``levels`` is its length, ``offset`` and ``last`` those of
            :func:`fmbench.paths.grids.indices`.
        sigmas, rho: least and most noise level of ``schedule = "edm"`` or "ve", and the power of its grid.
        sigma_data: deviation of the data in EDM's preconditioning of a raw network; 0 for a network that does its own.
        clip: largest value of predicted data in a step along the grid, 0 for no limit.
        start: deviation of the noise that the grid starts from, 0 for that of the schedule.
    """

    summary = "a network that another library trained, read as a velocity"
    reference = "arXiv:2206.00364"
    objective = "none: it is trained already"
    trains = False

    def __init__(
        self,
        net: nn.Module,
        predicts: str = "velocity",
        schedule: str = "linear",
        time: str = "data_at_1",
        time_scale: float = 1.0,
        grid: str = "",
        shift: float = 1.0,
        betas: tuple[float, float] = (1e-4, 0.02),
        beta_kind: str = "linear",
        levels: int = 1000,
        offset: int = 0,
        last: int = -1,
        sigmas: tuple[float, float] = (0.002, 80.0),
        rho: float = 7.0,
        sigma_data: float = 0.0,
        clip: float = 0.0,
        start: float = 0.0,
    ) -> None:
        super().__init__(net)
        path: str | Schedule = schedule
        if schedule == "ddpm":
            path = DDPM(table(beta_kind, levels, *betas))
        elif schedule in ("edm", "ve"):
            path = VE(*sigmas)
        if last not in (-1, 0) or not 0 <= offset < levels:
            raise ValueError(f"last must be -1 or 0 and offset from 0 to {levels - 1}, got {last} and {offset}")
        steps: Grid | None = None
        if grid == "shifted":
            steps = named(grid, shift)
        elif grid == "karras":
            steps = karras(*sigmas, rho)
        elif grid in ("leading", "trailing"):
            steps = indices(grid, levels, offset, last)
        made = reading(predicts, path, time, time_scale, "xt", grid or None, sigma_data or None, clip or None)
        self.reading = replace(made, grid=steps, start=start or None)
        self.label_dropout = 1.0 if getattr(net, "has_null", False) else 0.0

    def velocity(self, x: Points, t: Times, cond: Condition | None = None, guidance: float = 1.0) -> Points:
        """The velocity on the linear path, whatever the network predicts."""
        ask = super().velocity
        return self.reading.velocity(lambda y, time: ask(y, time, cond, guidance), x, t)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Raises ValueError: it is trained already."""
        raise ValueError("a published model is trained already")

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The state of the library's own network, under its own names."""
        return self.net.model.state_dict(*args, **kwargs)  # type: ignore[union-attr, operator]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state with these names."""
        return self.net.model.load_state_dict(state_dict, strict, assign)  # type: ignore[union-attr, operator]
