"""Student's t, of which every interval over few repetitions needs one number."""

from __future__ import annotations

from functools import cache


@cache
def t95(freedom: int) -> float:
    """97.5 % quantile of Student's t with ``freedom`` degrees: half-width of a 95 % interval in standard errors."""
    from scipy.stats import t as student

    return float(student.ppf(0.975, freedom))
