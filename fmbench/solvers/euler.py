"""Explicit Euler."""

from fmbench.solvers.base import RungeKutta


class Euler(RungeKutta):
    """``x <- x + h v(x, t)``: order 1, one evaluation per step."""

    name = "euler"
    order = 1
    nodes = (0.0,)
    matrix = ((),)
    weights = (1.0,)
