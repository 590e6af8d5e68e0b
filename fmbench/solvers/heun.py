"""Heun's method (explicit trapezoidal rule)."""

from fmbench.solvers.base import RungeKutta


class Heun(RungeKutta):
    """Average of the slopes at both ends of the step: order 2, two evaluations per step (also the last; EDM drops that one)."""

    name = "heun"
    order = 2
    nodes = (0.0, 1.0)
    matrix = ((), (1.0,))
    weights = (0.5, 0.5)
