"""What a reference solve leaves behind of every trajectory; :mod:`fmbench.metrics.flow` says what the integrals are and makes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Trajectories:
    """Per-trajectory integrals of a reference solve, arrays of shape (n,) in float64, and the end points (n, *shape).

    Attributes:
        start, stop: Z0 and Z1, float32.
        energy, straightness, curvature, cost: see :mod:`fmbench.metrics.flow`; length^2, summed over dimensions.
        coarse_energy, coarse_straightness, coarse_curvature: the same by half as many steps on every second node.
        residual: mean |PE - S - cost| over mean PE when S is computed from its definition.
        steps: RK4 steps.
    """

    start: Tensor
    stop: Tensor
    energy: np.ndarray
    straightness: np.ndarray
    curvature: np.ndarray
    cost: np.ndarray
    coarse_energy: np.ndarray
    coarse_straightness: np.ndarray
    coarse_curvature: np.ndarray
    residual: float
    steps: int

    @property
    def resolution(self) -> float:
        """What float32 leaves of the mean energy, length^2: differences between energy and cost below it are rounding."""
        return float(np.finfo(np.float32).eps * self.energy.mean())


def concatenate(parts: list[Trajectories]) -> Trajectories:
    """Join reference solves of consecutive chunks."""
    names = ("energy", "straightness", "curvature", "cost", "coarse_energy", "coarse_straightness", "coarse_curvature")
    arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    counts = np.array([len(p.cost) for p in parts], dtype=np.float64)
    residual = float(np.average([p.residual for p in parts], weights=counts))
    ends = (torch.cat([p.start for p in parts]), torch.cat([p.stop for p in parts]))
    return Trajectories(*ends, **arrays, residual=residual, steps=parts[0].steps)
