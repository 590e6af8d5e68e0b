"""The quantile of Student's t for intervals over few repetitions."""

from __future__ import annotations

from functools import cache


@cache
def t95(freedom: float) -> float:
    """97.5 % quantile of Student's t with ``freedom`` degrees, whole or not: half-width of a 95 % interval in standard errors."""
    # The same number as scipy.stats.t.ppf, whose import alone takes half a second.
    from scipy.special import stdtrit

    return float(stdtrit(float(freedom), 0.975))
