"""Mean and covariance of features: exact under a large mean, and checked where somebody else states them."""

import numpy as np
import pytest

from fmbench.features.statistics import stated_statistics, statistics_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_a_large_mean_costs_no_digits(offset):
    """Sums of squares about zero lose log10(mean^2 / variance) digits: 12 of 16 at 1e6."""
    x = RNG.normal(size=(5000, 4))
    found = statistics_of(iter((x + offset)[start : start + 700] for start in range(0, 5000, 700)))
    assert np.abs(found.cov - np.cov(x, rowvar=False)).max() < 1e-8
    assert np.abs(found.mean - offset - x.mean(axis=0)).max() < 1e-8
    assert found.n == 5000


def test_batches_do_not_matter():
    x = RNG.normal(size=(300, 5)).astype(np.float32)
    whole, parts = statistics_of(iter([x])), statistics_of(iter(np.array_split(x, 7)))
    assert np.allclose(whole.cov, parts.cov, rtol=1e-12, atol=1e-14) and np.allclose(whole.mean, parts.mean, rtol=1e-12)


def test_too_few_images_are_said():
    with pytest.raises(ValueError, match="no images"):
        statistics_of(iter([]))
    with pytest.raises(ValueError, match="at least 2"):
        statistics_of(iter([np.zeros((1, 3))]))


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
    assert found.n is None and found.mean.dtype == np.float64
