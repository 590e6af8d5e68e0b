"""The classical Runge-Kutta method."""

from fmbench.solvers.base import RungeKutta


class RK4(RungeKutta):
    """Classical fourth-order method (Kutta 1901): four evaluations per step."""

    name = "rk4"
    order = 4
    nodes = (0.0, 0.5, 0.5, 1.0)
    matrix = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
