"""A model that another library trained and published: its network is read as a velocity and stepped through on its own grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.flows.converted import Deployed, reading
from fmbench.methods.base import Batch, VelocityMethod
from fmbench.paths.grids import named
from fmbench.paths.schedules import DDPM, Schedule
from fmbench.shapes import Condition, Points, Times

BETAS = ("linear", "scaled_linear")


class Published(Deployed, VelocityMethod):
    """Weights of another library, under the names that it gave them; nothing is trained.

    Args:
        net: the network, one of :mod:`fmbench.nets.published`.
        predicts, schedule, time, time_scale: how it is read (:func:`fmbench.wrap` says what the words mean).
        grid: name of the grid it is deployed with (:func:`fmbench.paths.grids.named`), empty for equal steps; ``shift`` of that grid.
        betas, beta_kind: first and last beta of the table of ``schedule = "ddpm"``, and whether they ("linear") or their roots
            ("scaled_linear") are equally spaced.
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
    ) -> None:
        super().__init__(net)
        path: str | Schedule = _table(betas, beta_kind) if schedule == "ddpm" else schedule
        self.reading = reading(predicts, path, time, time_scale, "xt", named(grid, shift))
        self.label_dropout = 1.0 if getattr(net, "num_classes", 0) else 0.0

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


def _table(betas: tuple[float, float], kind: str) -> DDPM:
    if kind not in BETAS:
        raise ValueError(f"beta_kind must be one of {', '.join(BETAS)}, got {kind!r}")
    first, last = betas
    if kind == "linear":
        return DDPM.linear(1000, first, last)
    roots = torch.linspace(first**0.5, last**0.5, 1000, dtype=torch.float64)
    return DDPM(torch.cumprod(1 - roots**2, 0))
