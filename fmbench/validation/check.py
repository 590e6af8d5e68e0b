"""One line of the validation report, and the three kinds of checks against a known answer.

- :func:`exact`: the metric has no sampling error on the case (population moments, sets whose answer is known point by point, closed
  fields); the tolerance is stated with the case and covers rounding, quadrature or a step size.
- :func:`sampled`: the metric is unbiased on the case; the mean over independent repetitions must lie within the distance that a correct
  metric exceeds with probability :data:`FALSE_ALARM`. A biased metric is never checked this way against its limit.
- :func:`unvalidated`: no case with a known answer exists; the reason is part of the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmbench.storage.readers import one_line

FALSE_ALARM = 1e-3
"""Probability that a correct metric fails one sampled check, two-sided; fixed before any result was known."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One metric on one case with a known answer.

    Attributes:
        metric: name, the registered one where there is one.
        case: what was measured, in a few words.
        expected: the known answer, None when there is none.
        got: the metric's answer; a mean over repetitions where the case is random.
        error: ``got - expected``.
        tolerance: largest ``|error|`` that passes.
        interval: 95 % interval of ``got`` (Student t over repetitions), None for a deterministic case.
        passed: whether the error is within the tolerance; None when the metric cannot be validated.
        note: where the answer comes from, why there is none, or how the metric failed.
    """

    metric: str
    case: str
    expected: float | None
    got: float | None
    error: float | None
    tolerance: float | None
    interval: tuple[float, float] | None
    passed: bool | None
    note: str = ""


def _held(
    metric: str,
    case: str,
    expected: float,
    got: float,
    tolerance: float,
    interval: tuple[float, float] | None,
    note: str,
) -> Check:
    error = got - expected
    passed = math.isfinite(error) and abs(error) <= tolerance
    return Check(metric, case, float(expected), float(got), float(error), float(tolerance), interval, passed, note)


def exact(
    metric: str,
    case: str,
    expected: float,
    got: float,
    note: str,
    relative: float = ROUNDING,
    absolute: float = ROUNDING,
) -> Check:
    """A deterministic check: ``|got - expected| <= relative |expected| + absolute``."""
    return _held(metric, case, expected, got, relative * abs(expected) + absolute, None, note)


def sampled(metric: str, case: str, expected: float, values: Sequence[float] | np.ndarray, note: str) -> Check:
    """A statistical check of an unbiased metric from independent repetitions (or independent per-sample values).

    Passes when the mean is within ``t`` standard errors of ``expected``, ``t`` the two-sided quantile of Student's distribution for
    :data:`FALSE_ALARM`. Raises ValueError for fewer than two repetitions.
    """
    from scipy.stats import t as student

    repeats = np.asarray(values, dtype=np.float64)
    if len(repeats) < 2:
        raise ValueError(f"a sampled check needs at least 2 repetitions, got {len(repeats)}")
    if not np.isfinite(repeats).all():
        return _held(metric, case, expected, float("nan"), 0.0, None, note)
    mean, error = float(repeats.mean()), float(repeats.std(ddof=1)) / math.sqrt(len(repeats))
    half, most = (float(student.ppf(1 - p / 2, len(repeats) - 1)) * error for p in (0.05, FALSE_ALARM))
    tolerance = most + ROUNDING * abs(expected)
    return _held(metric, case, expected, mean, tolerance, (mean - half, mean + half), note)


def unvalidated(metric: str, reason: str) -> Check:
    """A row for a metric that no case with a known answer exists for."""
    return Check(metric, "none", None, None, None, None, None, None, reason)


def failed(metric: str, error: Exception) -> Check:
    """A row for a metric that raised instead of giving a number."""
    return Check(metric, "stopped", None, None, None, None, None, False, one_line(error))
