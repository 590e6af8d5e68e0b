"""What flow metrics beyond the path integrals look at: the velocity field itself, from a few points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmbench.shapes import Points, Velocity
from fmbench.tasks.base import LogDensity


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
