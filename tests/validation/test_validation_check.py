"""Laws of a single check: what passes, how often a correct metric fails, and that nothing odd slips through."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fmbench.validation.check import FALSE_ALARM, exact, failed, sampled, unvalidated


def test_exact_passes_up_to_its_tolerance_and_not_beyond() -> None:
    for got, passed in ((10.09, True), (9.91, True), (10.11, False), (9.89, False)):
        check = exact("m", "c", 10.0, got, "", relative=0.01, absolute=0.0)
        assert check.passed is passed
        assert check.error == pytest.approx(got - 10)
        assert check.tolerance == pytest.approx(0.1)


@pytest.mark.parametrize("got", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_never_pass(got: float) -> None:
    assert exact("m", "c", 1.0, got, "", relative=math.inf).passed is False
    assert sampled("m", "c", 1.0, [got, 1.0, 1.0], "").passed is False


@pytest.mark.slow
def test_a_correct_metric_fails_as_rarely_as_stated_and_a_biased_one_nearly_always() -> None:
    rng, repeats, trials = np.random.default_rng(0), 8, 3000
    values = rng.standard_normal((trials, repeats))
    checks = [sampled("m", "c", 0.0, row, "") for row in values]
    alarms = sum(check.passed is False for check in checks)
    assert 0 < alarms <= FALSE_ALARM * trials + 5 * math.sqrt(FALSE_ALARM * trials)
    covered = [check.interval[0] <= 0 <= check.interval[1] for check in checks if check.interval]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    assert all(sampled("m", "c", 0.0, row + 10, "").passed is False for row in values[:200])


def test_a_sampled_check_needs_a_spread() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        sampled("m", "c", 0.0, [1.0], "")
    assert sampled("m", "c", 0.5, [0.5, 0.5, 0.5], "").passed is True
    assert sampled("m", "c", 0.5, [0.6, 0.6, 0.6], "").passed is False


def test_rows_without_a_number() -> None:
    assert unvalidated("m", "why").passed is None
    row = failed("m", RuntimeError("first\nsecond"))
    assert row.passed is False and row.note == "RuntimeError: first"
