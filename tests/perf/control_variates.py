"""What the control variates of sliced W2 are worth: variance over random directions, and cost, against plain Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from case import clouds
from measuring import compare

from fmbench.transport.sliced import sliced_wasserstein2

PROJECTIONS = 64
DRAWS = 200


@dataclass(frozen=True)
class Gain:
    """Plain over controlled, for one control and dimension.

    Attributes:
        variance: ratio of the variances of the squared distance at equal numbers of directions.
        cost: controlled over plain seconds per call.
        gain: variance ratio at equal cost, their quotient (the variance goes as one over the number of directions).
    """

    control: str
    n: int
    d: int
    variance: float
    cost: float
    gain: float


def _variance(x: np.ndarray, y: np.ndarray, control: str) -> float:
    draws = (np.random.default_rng(seed) for seed in range(DRAWS))
    return float(np.var([sliced_wasserstein2(x, y, PROJECTIONS, rng, control) ** 2 for rng in draws], ddof=1))


def gains(n: int, dimensions: tuple[int, ...], repeat: int, clock: str) -> list[Gain]:
    """Both controls in every dimension, on clouds whose means and widths differ."""
    found = []
    for d in dimensions:
        x, y = clouds(n, d)
        plain = _variance(x, y, "none")
        for control in ("lower", "upper"):
            timed = compare(
                lambda x=x, y=y: sliced_wasserstein2(x, y, PROJECTIONS),
                lambda x=x, y=y, control=control: sliced_wasserstein2(x, y, PROJECTIONS, control=control),
                repeat,
                clock,
            )
            ratio = plain / _variance(x, y, control)
            found.append(Gain(control, n, d, ratio, timed.ratio, ratio / timed.ratio))
    return found
