"""Explicit midpoint rule."""

from fmbench.solvers.base import RungeKutta


class Midpoint(RungeKutta):
    """``x <- x + h v(x + h/2 v, t + h/2)``: order 2, two evaluations per step."""

    name = "midpoint"
    order = 2
    nodes = (0.0, 0.5)
    matrix = ((), (0.5,))
    weights = (0.0, 1.0)
