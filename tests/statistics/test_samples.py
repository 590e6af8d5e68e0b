"""What every metric refuses in one line before it computes."""

import numpy as np
import pytest

from fmbench.metrics.mmd import gaussian_mmd_squared
from fmbench.statistics.intervals import mean_estimate
from fmbench.statistics.samples import checked_samples

GOOD = np.random.default_rng(0).normal(size=(6, 2))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ma.masked_invalid(np.where(GOOD > 1, np.nan, GOOD)), "masked array"),
        (GOOD * 1j, "real numbers, got complex128"),
        (np.array([["1", "2"]]), "real numbers, got <U1"),
        (np.zeros((4, 0)), r"d of at least 1, got shape \(4, 0\)"),
        (np.zeros((0, 2)), "at least 1 samples, got 0"),
        (GOOD[:, 0], r"got shape \(6,\)"),
        (GOOD * 1e200, "overflow"),
        (np.where(GOOD[3, 1] == GOOD, np.nan, GOOD), "1 NaN or infinite values, the first at row 3, column 1"),
    ],
)
def test_unusable_samples_are_refused_in_one_line(x, words):
    with pytest.raises(ValueError, match=words) as error:
        checked_samples(x)
    assert "\n" not in str(error.value)


def test_unequal_dimensions_are_named():
    with pytest.raises(ValueError, match="same dimension, got 2 and 1"):
        checked_samples(GOOD, GOOD[:, :1])


def test_a_mean_of_nan_is_no_estimate():
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        mean_estimate(np.array([1.0, np.nan, 2.0]))


def test_a_gaussian_kernel_does_not_see_a_common_offset():
    near = gaussian_mmd_squared(GOOD, GOOD + 0.3)
    assert gaussian_mmd_squared(GOOD + 1e7, GOOD + 0.3 + 1e7) == pytest.approx(near, rel=1e-6)
