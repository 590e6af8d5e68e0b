"""Laws of moments: they add, leave groups out without subtracting, and keep the digits of sets that are collapsed or far away."""

from fractions import Fraction

import numpy as np
import pytest

from fmbench.statistics.intervals import deletions
from fmbench.statistics.moments import Moments, without_each


def exact_covariance(x: np.ndarray) -> np.ndarray:
    """Unbiased covariance in rational arithmetic."""
    rows = [[Fraction(float(value)) for value in row] for row in x]
    n, d = x.shape
    means = [sum(column) / n for column in zip(*rows, strict=True)]
    entry = lambda a, b: sum((row[a] - means[a]) * (row[b] - means[b]) for row in rows) / (n - 1)  # noqa: E731
    return np.array([[float(entry(a, b)) for b in range(d)] for a in range(d)])


def test_moments_add() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 5)) + 2, rng.normal(size=(50, 5))
    both = Moments.of(x) + Moments.of(y)
    together = np.concatenate([x, y])
    assert both.n == 80
    np.testing.assert_allclose(both.mean, together.mean(0), rtol=1e-12)
    np.testing.assert_allclose(both.cov, np.cov(together, rowvar=False), rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        _ = Moments.of(x[:1]).cov


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize(("offset", "noise"), [(0.0, 1.0), (1.0, 1e-6), (1e8, 1.0), (1e8, 1e-3), (-3e12, 1.0)])
def test_digits_do_not_depend_on_where_the_samples_lie(offset: float, noise: float, rows: int) -> None:
    x = offset + noise * np.random.default_rng(1).normal(size=(20, 3))
    got = Moments.of(x, rows)
    truth = exact_covariance(x)
    # What rounding the coordinates themselves to float64 can change.
    rounding = (np.spacing(abs(offset)) / noise) * np.trace(truth)
    np.testing.assert_allclose(got.cov, truth, rtol=1e-12, atol=1e-12 * np.trace(truth) + (rows < 20) * rounding)


def test_equal_samples_have_exactly_no_covariance() -> None:
    point = np.random.default_rng(3).normal(size=16)
    moments = Moments.of(np.tile(point, (2500, 1)))
    assert not (moments + Moments.of(np.tile(point, (3, 1)))).cov.any()
    assert (moments.mean == point).all()


def test_float32_is_summed_in_float64() -> None:
    x = (1000 + np.random.default_rng(4).normal(size=(3000, 2))).astype(np.float32)
    np.testing.assert_allclose(Moments.of(x).cov, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-12)


@pytest.mark.parametrize(("n", "far"), [(40, 0.0), (9, 0.0), (41, 1e9)])
def test_a_group_left_out_leaves_no_trace(n: int, far: float) -> None:
    # A group with one far sample must be gone to the last digit: a difference of sums would keep its rounding.
    x = np.random.default_rng(n).normal(size=(n, 3))
    x[7] += far
    masks = [kept for kept, _ in deletions(n)]
    left = list(without_each(x, [~kept for kept in masks]))
    assert len(left) == len(masks)
    for moments, kept in zip(left, masks, strict=True):
        assert moments.n == kept.sum()
        np.testing.assert_allclose(moments.cov, exact_covariance(x[kept]), rtol=1e-9)
    with pytest.raises(ValueError, match="nothing is left"):
        list(without_each(x, [np.ones(n, dtype=bool)]))


def test_unusable_rows_are_named_by_their_own_number() -> None:
    x = np.zeros((2500, 2))
    x[2100, 1] = np.nan
    with pytest.raises(ValueError, match="first at row 2100, column 1"):
        Moments.of(x)
    with pytest.raises(ValueError, match="at least 1 samples, got 0"):
        Moments.of(x[:0])
