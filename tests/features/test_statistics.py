"""Mean and covariance of features, checked where a file states them."""

import numpy as np
import pytest

from fmbench.features.statistics import stated_statistics

RNG = np.random.default_rng(0)


SKEW = np.eye(3) + np.triu(np.ones((3, 3)), 1)
BROKEN = np.eye(3)
BROKEN[1, 1] = np.nan


@pytest.mark.parametrize(
    ("mu", "sigma", "words"),
    [
        (np.zeros(3), np.eye(4), r"mu has shape \(3,\) and sigma \(4, 4\)"),
        (np.zeros((1, 3)), np.eye(3), "mu has shape"),
        (np.zeros(0), np.zeros((0, 0)), "mu has shape"),
        (np.array([0, np.inf, 0]), np.eye(3), "1 NaN or infinite"),
        (np.zeros(3), BROKEN, "NaN or infinite"),
        (np.zeros(3), SKEW, "symmetric"),
        (np.zeros(3), -np.eye(3), "positive semi-definite"),
        (np.zeros(3), np.eye(3) * 1j, "complex128"),
        (np.zeros(3, bool), np.eye(3), "bool"),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused_by_name(mu, sigma, words):
    with pytest.raises(ValueError, match=words) as error:
        stated_statistics(mu, sigma, "theirs.npz")
    assert str(error.value).startswith("theirs.npz: ") and "\n" not in str(error.value)


def test_singular_statistics_are_fine():
    """Fewer images than features leave a covariance of low rank."""
    x = RNG.normal(size=(4, 9))
    found = stated_statistics(x.mean(axis=0).astype("f4"), np.cov(x, rowvar=False), "theirs.npz")
    assert found.mean.dtype == np.float64
