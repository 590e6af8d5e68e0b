"""What flow metrics beyond the path integrals look at: the velocity field itself, from a few points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fmbench.shapes import Points, Velocity
from fmbench.tasks.base import LogDensity


@dataclass(frozen=True)
class ExactDensity:
    """A log density that a flow knows exactly, with the real points it is asked about.

    Attributes:
        log_density: (m, *shape) -> (m,) nats.
        data: (m, *shape) fresh real points.
        data_log_density: (m,) log density of the target there where it is known.
        levels: grey levels of images in [-1, 1], 0 for vectors.
        seed: keys the random numbers of dequantisation.
    """

    log_density: Callable[[Points], Tensor]
    data: Points
    data_log_density: np.ndarray | None = None
    levels: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Probe:
    """A velocity field with the points to look at it from, all on the field's device, rows independent of each other.

    Attributes:
        velocity: v(x, t) with the labels of the rows of ``x0`` bound.
        x0: (n, *shape) source points, the first of the reference solve.
        steps: RK4 steps of what is solved from them.
        seed: keys the random numbers of metrics that need some.
        data, data_velocity: (m, *shape) fresh real points, and the field with their labels bound.
        data_log_density: (m,) log density of the target at the real points where it is known: no model can do better on average.
        source_log_density: log density of the source, None when not known.
        oracle: exact velocity of independent pairs where it is known.
        levels: grey levels of images in [-1, 1], 0 for vectors.
        has_density: False when the flow ends in points, so that no likelihood can be computed.
    """

    velocity: Velocity
    x0: Points
    steps: int
    seed: int
    data: Points
    data_velocity: Velocity
    data_log_density: np.ndarray | None = None
    source_log_density: LogDensity | None = None
    oracle: Velocity | None = None
    levels: int = 0
    has_density: bool = True
