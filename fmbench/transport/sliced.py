"""Sliced 2-Wasserstein distance, with control variates.

``SW2(x, y)^2`` is the mean over directions ``theta``, uniform on the sphere, of ``W(theta)``, the squared 1-D
Wasserstein distance between the projections ``theta . x`` and ``theta . y``. In one dimension optimal transport matches
quantiles, so ``W(theta)`` is exact for any two sizes. The mean over directions is a Monte Carlo sum; a control variate
``h(theta)`` with known mean ``B`` reduces its variance (Nguyen and Ho, 2305.00402). With ``dm`` the difference of the
sample means and ``E[theta theta^T] = I / d``:

    lower: h = (theta . dm)^2                                      B = |dm|^2 / d
    upper: h = (theta . dm)^2 + var_x(theta) + var_y(theta)        B = (|dm|^2 + tr S_x + tr S_y) / d
"""

from __future__ import annotations

import math

import numpy as np

from fmbench.statistics.samples import checked_samples
from fmbench.transport.placing import CPU, host, placed

PROJECTIONS = 512
PROJECTION_SEED = 20_230_504
"""Default directions are drawn from this seed: the same for every entry and seed, so that comparisons are paired."""
CONTROLS = ("none", "lower", "upper")
# Directions are handled in blocks of about this many projected values (64 MB each) to bound the memory at large n.
BLOCK_VALUES = 8_000_000
CENTRED = 1000
"""Points whose median is the offset."""
# A control of smaller relative variance is constant up to rounding, and a slope on rounding is meaningless.
ROUNDING = 1e-24


def directions(dim: int, projections: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """Directions uniform on the unit sphere, (projections, dim); from :data:`PROJECTION_SEED` without a generator.

    Raises ValueError when ``projections`` is not positive.
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    generator = np.random.default_rng(PROJECTION_SEED) if generator is None else generator
    theta = generator.standard_normal((projections, dim))
    return theta / np.linalg.norm(theta, axis=1, keepdims=True)


def quantile_cost(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared 1-D W2 between rows: *sorted* (L, n) and (L, m) values -> (L,).

    ``int_0^1 (F_a^-1(u) - F_b^-1(u))^2 du``. Both quantile functions are steps, cut at multiples of 1/n and 1/m: the
    integral is a finite sum over the merged cuts, kept as integers in units of 1/(n m) and therefore exact.
    """
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return ((a - b) ** 2).mean(axis=1)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    gap = a[:, (ends - 1) // m] - b[:, (ends - 1) // n]
    return (gap * gap) @ widths


def centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets without a common offset, a median of ``y``: the distance does not change, and projections far from 0 keep their digits."""
    offset = np.median(y[:CENTRED], axis=0)
    return x - offset, y - offset


def sorted_projections(points: np.ndarray, theta: np.ndarray, device: str = CPU) -> np.ndarray:
    """Projections of (n, d) points on every direction (L, d), sorted: (L, n); projected and sorted on ``device``."""
    projected = placed(theta, device) @ placed(points, device).T
    return np.sort(projected, axis=1) if isinstance(projected, np.ndarray) else host(projected.sort(dim=1).values)


def projected_costs(
    x: np.ndarray, y: np.ndarray, theta: np.ndarray, projected: np.ndarray | None = None, device: str = CPU
) -> np.ndarray:
    """``W(theta)`` of (n, d) and (m, d) points for every direction: (L, d) -> (L,), in squared units of the samples.

    ``projected`` are the :func:`sorted_projections` of ``y`` where they are known, (L, m).
    """
    rows = max(1, BLOCK_VALUES // (len(x) + len(y)))
    blocks = [slice(start, start + rows) for start in range(0, len(theta), rows)]
    known = lambda b: sorted_projections(y, theta[b], device) if projected is None else projected[b]  # noqa: E731
    return np.concatenate([quantile_cost(sorted_projections(x, theta[b], device), known(b)) for b in blocks])


def projections_of(y: np.ndarray, projections: int = PROJECTIONS, device: str = CPU) -> np.ndarray | None:
    """What :func:`sliced_wasserstein2` needs of ``y`` alone with its default directions, (L, m); None where that is too large to keep."""
    if projections * len(y) > BLOCK_VALUES:
        return None
    return sorted_projections(centred(y, y)[1], directions(y.shape[1], projections), device)


def controlled_mean(values: np.ndarray, control: np.ndarray, expected: float) -> float:
    """Mean of ``values`` minus ``alpha`` times how far the control's sample mean is from its ``expected`` value.

    ``alpha`` is the regression slope with both variables centred at their sample means. (2305.00402 centres at the
    expectation instead, which is not exact for a pure translation.) A constant control changes nothing.
    """
    centred = control - control.mean()
    spread = float(centred @ centred)
    varies = spread > ROUNDING * float(control @ control)
    alpha = float(centred @ values) / spread if varies else 0.0
    return float(values.mean()) - alpha * (float(control.mean()) - expected)


def _control(x: np.ndarray, y: np.ndarray, theta: np.ndarray, kind: str) -> tuple[np.ndarray, float]:
    """Control variate per direction, (L,), and its expectation over the sphere."""
    shift = x.mean(axis=0) - y.mean(axis=0)
    control = (theta @ shift) ** 2
    expected = float(shift @ shift)
    if kind == "upper":
        for points in (x, y):
            centred = points - points.mean(axis=0)
            covariance = centred.T @ centred / len(points)
            control += ((theta @ covariance) * theta).sum(axis=1)
            expected += float(np.trace(covariance))
    return control, expected / x.shape[1]


def sliced_wasserstein2(
    x: np.ndarray,
    y: np.ndarray,
    projections: int = PROJECTIONS,
    generator: np.random.Generator | None = None,
    control: str = "none",
    projected: np.ndarray | None = None,
    device: str = CPU,
) -> float:
    """Sliced W2 (root of the mean squared 1-D distance, in the unit of the samples) between (n, d) and (m, d) points.

    Args:
        x, y: finite (n, d) and (m, d) arrays; n and m may differ.
        projections: number of random directions.
        generator: draws the directions; a fixed seed, equal for all calls, when not given.
        control: ``none`` (plain Monte Carlo), ``lower`` or ``upper`` (the control variates of the module). The lower
            one removes the variance of a shift of the mean, the upper one also helps when covariances differ. The
            controlled mean may fall slightly below zero when both sets nearly agree, and is then taken as zero.
        projected: :func:`projections_of` ``y`` on the directions, where that is done already.
        device: where samples are projected and sorted.

    Raises ValueError for unusable samples, fewer than one projection or an unknown control.
    """
    x, y = checked_samples(x, y)
    if control not in CONTROLS:
        raise ValueError(f"control must be one of {', '.join(CONTROLS)}, got {control!r}")
    x, y = centred(x, y)
    theta = directions(x.shape[1], projections, generator)
    costs = projected_costs(x, y, theta, projected, device)
    mean = float(costs.mean()) if control == "none" else controlled_mean(costs, *_control(x, y, theta, control))
    return math.sqrt(max(mean, 0.0))
