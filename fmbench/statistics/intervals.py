"""Estimates with a 95 % interval: means, shares, the jackknife, evaluation seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fmbench.records.ranges import UNBOUNDED, Range
from fmbench.records.result import Estimate
from fmbench.statistics.student import t95

Z95 = 1.959963984540054
MOST_SKEWED = 2.0
GROUPS = 20
"""Groups of the delete-a-group jackknife."""


# Beyond these, squares and their sums leave the range of float64.
_SMALL, _LARGE = 1e-140, 1e140


def enclosing(value: float, low: float, high: float, bounds: Range = UNBOUNDED) -> tuple[float, float] | None:
    """The interval ``[low, high]``, widened to contain ``value`` and clipped to ``bounds``; None where an end is not finite.

    Every interval of the package is built here, so that no end leaves ``bounds`` and no value lies outside its interval, by rounding or
    by a bias correction. Clipping loses no coverage, because the quantity itself lies within its bounds.
    """
    low, high = max(min(low, value), bounds[0]), min(max(high, value), bounds[1])
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def root_sum_squares(values: np.ndarray) -> float:
    """``sqrt(sum v_i^2)`` where the squares overflow or vanish too."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0 or _SMALL < largest < _LARGE:
        return math.sqrt(float((values**2).sum()))
    return largest * math.sqrt(float(((values / largest) ** 2).sum()))


def spread(values: np.ndarray) -> float:
    """Sample standard deviation (ddof 1) of at least two values, in their unit, of any size."""
    centred = values - values.mean()
    largest = float(np.abs(centred).max())
    if largest == 0 or _SMALL < largest < _LARGE:
        return float(values.std(ddof=1))
    return largest * float((centred / largest).std(ddof=1))


def mean_estimate(values: np.ndarray, bounds: Range = UNBOUNDED, **details: Any) -> Estimate:
    """Mean of independent per-sample values with its Student t 95 % interval for their expectation; none from one value.

    Liberal for few and skewed values: squared normals are covered 90 % of the time at n = 20, 93 % at n = 100. Shares of
    yes and no belong in :func:`proportion_estimate`. ``bounds`` are the range of the values, which the interval does not leave.
    Raises ValueError without values, for values that are not finite, or whose sum is not.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least 1 value, got none")
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(f"{bad} of {n} values are NaN or infinite, so they have no mean")
    with np.errstate(over="ignore"):
        mean = float(values.mean())
    if not math.isfinite(mean):
        raise ValueError(
            f"the sum of {n} values up to {np.abs(values).max():.3g} overflows, so they have no mean; rescale them"
        )
    half = t95(n - 1) * spread(values) / math.sqrt(n) if n > 1 else math.nan
    ci = enclosing(mean, mean - half, mean + half, bounds) if n > 1 else None
    return Estimate(mean, ci, n, details=details, replicates=means_without_groups(values))


def skewed_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval for the expectation of skewed values, (n,), n >= 2: Student t on Hall's transformed scale (Hall, JRSSB 54, 1992).

    The plain t interval of squared deviations, few of them large, lies too low: at n = 128 it covers 88 % for lognormal values of log-deviation
    1, this one 92 %; for values without skewness both are the same. The skewness is that of the sample, at most 2: beyond, n values say little
    about their tail.
    """
    n, error = len(values), spread(values) / math.sqrt(len(values))
    mean, centred = float(values.mean()), values - values.mean()
    scale = float(np.abs(centred).max())
    if scale == 0:
        return mean, mean
    unit = centred / scale
    skewness = float(np.clip((unit**3).mean() / (unit**2).mean() ** 1.5, -MOST_SKEWED, MOST_SKEWED))
    a = skewness / math.sqrt(n)

    def back(q: float) -> float:
        """The studentised mean whose transform t + a t^2 / 3 + a^2 t^3 / 27 + a / 6 is q."""
        return q if abs(a) < 1e-9 else 3 / a * (np.cbrt(1 + a * (q - a / 6)) - 1)

    q = t95(n - 1)
    return mean - error * float(back(q)), mean - error * float(back(-q))


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a probability from a share of ``n`` independent trials (Wilson, JASA 22, 1927), inside [0, 1].

    ``n`` may be an effective number, not whole. Unlike the normal interval it has a width at shares of 0 and 1. Raises
    ValueError for a share outside [0, 1] or an ``n`` that is not positive.
    """
    if not (0 <= share <= 1 and n > 0):
        raise ValueError(f"share must be in [0, 1] and n positive, got {share} and {n}")
    weight = Z95**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # The bounds contain the share; the limits only take away round-off.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def effective_trials(share: float, variance: float, freedom: int, most: float) -> float:
    """Independent trials that would give :func:`wilson_interval` the width that ``variance`` calls for, at most ``most``.

    For shares of trials that depend on each other, whose variance is estimated with ``freedom`` degrees. A share of 0 or
    1, or no visible variance, leaves ``most``.
    """
    if not 0 < share < 1 or variance <= 0:
        return most
    return min(most, share * (1 - share) / variance * (Z95 / t95(freedom)) ** 2)


def proportion_estimate(hits: np.ndarray, **details: Any) -> Estimate:
    """Share of independent trials that are hits, (n,) of 0 and 1, with its :func:`wilson_interval`.

    Raises ValueError without trials or for other values.
    """
    hits = np.asarray(hits, dtype=np.float64)
    if len(hits) == 0 or not np.isin(hits, (0.0, 1.0)).all():
        raise ValueError(f"a proportion needs at least 1 value, all 0 or 1, got {hits[:5].tolist()}")
    share = float(hits.mean())
    ci, partial = wilson_interval(share, len(hits)), means_without_groups(hits)
    return Estimate(share, ci, len(hits), details=details, replicates=partial)


def means_without_groups(values: np.ndarray, groups: int = GROUPS) -> tuple[float, ...]:
    """Means of (n,) values with each of the groups of :func:`deletions` left out; none from fewer than four values, or when one overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        means = [float(values[kept].mean()) for kept, _ in deletions(len(values), groups=groups)]
    return tuple(means) if all(map(math.isfinite, means)) else ()


def jackknife_error(partial: np.ndarray) -> float:
    """Standard error of a statistic from its values with one of G groups left out each: (G,) -> float.

    ``sqrt((G - 1) / G sum_g (s_g - mean)^2)``. For any statistic that does not depend on the order of the groups the
    expected square is at least the variance at G - 1 groups (Efron & Stein, Ann. Statist. 9, 1981): intervals err on the
    wide side, by a factor up to sqrt(2) for discrepancies between equal distributions, whose linear part vanishes.
    """
    groups = len(partial)
    return math.sqrt((groups - 1) / groups) * root_sum_squares(partial - partial.mean())


def deletions(n: int, m: int | None = None, groups: int = GROUPS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks of the rows that remain when each group is left out: pairs of (n,) and (m,) booleans; none when groups are too few.

    Groups are interleaved, row ``i`` in group ``i mod groups``, so that they are exchangeable whatever the order, and every metric of
    every entry leaves the same rows out: row ``i`` of a seed has the same noise for all, so that such values can be compared in pairs.
    Leaving a group out of both sets at once covers the randomness of both. Without ``m`` the second mask is empty: the other set is held
    fixed.
    """
    groups = min(groups, (n if m is None else min(n, m)) // 2)
    other = np.arange(m or 0)
    everything = np.arange(n)
    return [(everything % groups != g, other % groups != g) for g in range(groups)] if groups > 1 else []


def jackknife_estimate(
    statistic: Callable[[np.ndarray], float],
    n: int,
    groups: int = GROUPS,
    bounds: Range = UNBOUNDED,
    **details: Any,
) -> Estimate:
    """Value on all ``n`` samples with a delete-a-group jackknife interval, Student t with groups - 1 degrees.

    ``statistic`` gets the indices of the samples to use. The interval is for the expectation of the statistic at ``n``
    samples, bias included, does not leave ``bounds``, the range of the statistic, and is missing for fewer than four samples.
    """
    value = float(statistic(np.arange(n)))
    partial = np.array([statistic(np.flatnonzero(kept)) for kept, _ in deletions(n, groups=groups)])
    if not len(partial):
        return Estimate(value, None, n, details=details)
    half = t95(len(partial) - 1) * jackknife_error(partial)
    ci = enclosing(value, value - half, value + half, bounds)
    return Estimate(value, ci, n, details=details, replicates=tuple(partial.tolist()))


def squared_interval(
    value: float, partial: np.ndarray, offset: float = 0.0, bounds: Range = UNBOUNDED
) -> tuple[float, float] | None:
    """95 % jackknife interval of a squared discrepancy, computed on the scale of the discrepancy itself.

    A squared distance is skewed and its spread grows with it, so that symmetric intervals lie too low; its root is
    nearly normal with a constant spread. The interval ``[(r - h)^2 - offset, (r + h)^2 - offset]`` with
    ``r = sqrt(value + offset)`` needs no bias correction.

    Args:
        value: the squared discrepancy on all samples.
        partial: (G,) its values with a group left out (see :func:`deletions`).
        offset: what makes an unbiased estimate, which may be negative, a squared distance again: its bias correction.
        bounds: range of the squared discrepancy or its estimate.

    None from fewer than two groups.
    """
    if len(partial) < 2:
        return None
    root = math.sqrt(max(value + offset, 0.0))
    half = t95(len(partial) - 1) * jackknife_error(np.sqrt(np.maximum(partial + offset, 0.0)))
    return enclosing(value, max(root - half, 0.0) ** 2 - offset, (root + half) ** 2 - offset, bounds)


def over_seeds(estimates: Sequence[Estimate], bounds: Range = UNBOUNDED) -> Estimate:
    """Combine one estimate per evaluation seed: their mean with a Student t interval; a single seed keeps its own interval.

    The interval is for the expectation of the metric at the protocol's number of samples (W2 and the Frechet distance
    are biased by it). It covers all that differs between seeds and is exact for normal values; 92 to 97 % were measured for
    W2, SW2, FD, KD and MMD^2 over 3 and 5 seeds of 100 samples, 89 to 95 % for FD, KD and MMD^2 of equal distributions,
    which are skewed.

    Seeds that agree exactly have no spread to show: the intervals they bring, if all do, are pooled instead, so that a
    share of 1.0 for every seed keeps a width. When a seed is missing so is the mean, because the seeds that worked are
    no fair sample. ``bounds`` are the range of the metric, which no interval leaves. Raises ValueError without estimates.
    """
    if not estimates:
        raise ValueError("combining seeds needs at least one estimate, got none")
    if len(estimates) == 1:
        (only,) = estimates
        if only.value is None or only.ci is None:
            return only
        cut = enclosing(only.value, *only.ci, bounds)
        return only if cut == only.ci else replace(only, ci=cut)
    count, missing = len(estimates), [e for e in estimates if e.value is None]
    if missing:
        some = "" if len(missing) == count else f"{len(missing)} of {count} seeds have no value: "
        return Estimate.missing(f"{some}{missing[0].reason}")
    values = np.array([e.value for e in estimates], dtype=np.float64)
    mean = float(values.mean())
    below = above = t95(count - 1) * spread(values) / math.sqrt(count)
    own = [e.ci for e in estimates if e.ci is not None]
    if np.ptp(values) == 0:
        mean, below, above = float(values[0]), 0.0, 0.0
        if len(own) == count:
            below, above = (root_sum_squares(np.array([mean - ci[side] for ci in own])) / count for side in (0, 1))
    details = {**estimates[0].details, "per_seed": values.tolist()}
    ci = enclosing(mean, mean - below, mean + above, bounds)
    return Estimate(mean, ci, sum(e.n for e in estimates), details=details, replicates=tuple(values.tolist()))
