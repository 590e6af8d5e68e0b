"""The grids of times that published samplers step through, by name: functions of the number of steps, on the clock of their network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Grid = Callable[[int], Tensor]
INDICES = 1000
"""Entries of the tables of noise levels that discrete-time models are trained with."""


def shifted(shift: float = 1.0) -> Grid:
    """Shares of noise from 1 to 0, moved towards the noise by ``s' = k s / (1 + (k - 1) s)`` (2403.03206, eq. 23), as diffusers steps.

    Without a shift they are equally spaced from 1 to 1 / 1000, followed by 0; the smallest is shifted twice, as there.
    """

    def moved(s: Tensor) -> Tensor:
        return shift * s / (1 + (shift - 1) * s)

    def grid(steps: int) -> Tensor:
        least = moved(torch.tensor(1 / INDICES, dtype=torch.float64)).item()
        return torch.cat(
            [moved(torch.linspace(1, least, steps, dtype=torch.float64)), torch.zeros(1, dtype=torch.float64)]
        )

    return grid


def karras(least: float = 0.002, most: float = 80.0, rho: float = 7.0) -> Grid:
    """Noise levels whose 1/rho-th powers are equally spaced, followed by 0 (2206.00364, eq. 5)."""

    def grid(steps: int) -> Tensor:
        roots = torch.linspace(most ** (1 / rho), least ** (1 / rho), steps, dtype=torch.float64)
        return torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)])

    return grid


def indices(spacing: str) -> Grid:
    """Indices of a table of 1,000 noise levels, followed by -1 for the data, spaced as diffusers calls it: leading or trailing."""

    def grid(steps: int) -> Tensor:
        if steps > INDICES:
            raise ValueError(f"{steps} steps are more than the {INDICES} levels that the model knows")
        if spacing == "leading":
            own = torch.arange(steps).flip(0) * (INDICES // steps)
        else:
            own = torch.arange(INDICES, 0, -INDICES / steps, dtype=torch.float64).round()[:steps] - 1
        return torch.cat([own.double(), -torch.ones(1, dtype=torch.float64)])

    return grid


NAMES = ("", "shifted", "karras", "leading", "trailing")


def named(name: str, shift: float = 1.0) -> Grid | None:
    """The grid of a name, None for the empty one. Raises ValueError for any other name or a shift that is not positive."""
    if name not in NAMES:
        raise ValueError(f"grid must be one of {', '.join(filter(None, NAMES))}, or empty, got {name!r}")
    if not shift > 0:
        raise ValueError(f"shift must be positive, got {shift}")
    return (
        None if not name else shifted(shift) if name == "shifted" else karras() if name == "karras" else indices(name)
    )
