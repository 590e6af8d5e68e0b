"""Laws of the kernel distance: closed form of the linear kernel, unbiasedness, jackknife (parity: tests/parity)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fmbench.metrics.evidence import of_samples
from fmbench.metrics.kernel import kernel_distance, measure, polynomial_kernel
from fmbench.metrics.reference import Lacking
from fmbench.statistics.intervals import deletions, squared_interval


def pair(n: int = 120, m: int = 120, d: int = 10, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + m)
    return rng.normal(size=(n, d)) + shift, rng.normal(size=(m, d)) * 1.1


def test_linear_kernel_is_the_unbiased_squared_difference_of_means() -> None:
    # E over pairs i != j of x_i.x_j is |mean|^2 - tr cov / n: the kernel has a closed form for unequal n and m.
    x, y = pair(90, 130)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() - np.trace(np.cov(x.T)) / 90 - np.trace(np.cov(y.T)) / 130
    assert kernel_distance(x, y, degree=1, gamma=1.0) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(x, y, degree=1, gamma=1.0, coef0=9.0) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_do_not_change_the_value(block: int) -> None:
    x, y = pair(33, 50, 4)
    assert kernel_distance(x, y, block=block) == pytest.approx(kernel_distance(x, y), rel=1e-12)


def test_unbiased_and_sometimes_negative_for_equal_distributions() -> None:
    values = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        values.append(kernel_distance(rng.normal(size=(30, 5)), rng.normal(size=(20, 5))))
    assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / np.sqrt(len(values))
    assert 0.2 < np.mean(np.array(values) < 0) < 0.8


def test_rotation_and_order_do_not_matter_translation_does() -> None:
    x, y = pair(40, 60, 6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    value = kernel_distance(x, y)
    assert kernel_distance(x @ turn, y @ turn) == pytest.approx(value, rel=1e-10)
    assert kernel_distance(y[::-1], x) == pytest.approx(value, rel=1e-10)
    assert kernel_distance(x + 1, y + 1) != pytest.approx(value, rel=1e-3)


def test_measure_is_the_brute_force_jackknife() -> None:
    x, y = pair(83, 70, 5)
    got = measure(of_samples(x, y, features=lambda a: a, extractor={"name": "id"}, sha256="hash"))
    value = kernel_distance(x, y)
    partial = np.array([kernel_distance(x[a], y[b]) for a, b in deletions(len(x), len(y))])
    d = x.shape[1]
    with_itself = [(a @ a.T / d + 1) ** 3 for a in (x, y)]
    # All pairs, those of a sample with itself too, make a squared distance: what it adds to the unbiased value.
    offset = sum(k.mean() for k in with_itself) - 2 * ((x @ y.T / d + 1) ** 3).mean() - value
    assert got.value == pytest.approx(value, rel=1e-10)
    assert got.ci == pytest.approx(squared_interval(value, partial, offset), rel=1e-9)
    assert got.details["reference_n"] == 70
    with pytest.raises(Lacking, match="feature extractor"):
        measure(of_samples(x, y))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 0}, "degree must be a positive integer, got 0"),
        ({"gamma": float("nan")}, "gamma must be positive and coef0 0 or more, both finite, got nan and 1.0"),
        ({"coef0": -1.0}, "coef0 0 or more"),
        ({"block": 0}, "block must be at least 1, got 0"),
        ({"x": np.zeros((1, 10))}, "x needs at least 2 samples, got 1"),
        ({"y": np.zeros((5, 9))}, "same dimension, got 10 and 9"),
        ({"x": np.full((5, 10), np.nan)}, "x has 50 NaN or infinite values"),
    ],
)
def test_refuses_in_one_line(arguments: dict, message: str) -> None:
    x, y = pair()
    with pytest.raises(ValueError, match=message) as error:
        kernel_distance(**{"x": x, "y": y, **arguments})
    assert "\n" not in str(error.value)


def rational(x: np.ndarray, y: np.ndarray, degree: int) -> Fraction:
    """The unbiased statistic in rational arithmetic, gamma = 1, coef0 = 1."""
    xs, ys = ([[Fraction(float(v)) for v in row] for row in points] for points in (x, y))
    k = lambda a, b: (sum(p * q for p, q in zip(a, b, strict=True)) + 1) ** degree  # noqa: E731
    mean = lambda pairs: sum(k(a, b) for a, b in pairs) / len(pairs)  # noqa: E731
    within = [mean([(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (xs, ys)]
    return within[0] + within[1] - 2 * mean([(a, b) for a in xs for b in ys])


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize(("offset", "noise"), [(0.0, 1.0), (50.0, 1.0), (1e6, 1.0), (1.0, 1e-6)])
def test_digits_survive_far_from_zero_and_in_collapsed_sets(degree: int, offset: float, noise: float) -> None:
    rng = np.random.default_rng(degree)
    x, y = (offset + noise * (rng.normal(size=(n, 2)) + shift) for n, shift in ((5, 1.0), (6, 0.0)))
    truth = float(rational(x, y, degree))
    assert kernel_distance(x, y, degree, gamma=1.0) == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("degree", [1, 3, 4])
def test_a_centre_takes_away_what_single_points_explain(degree: int) -> None:
    rng = np.random.default_rng(1)
    x, y, m = rng.normal(size=(4, 3)), rng.normal(size=(6, 3)), rng.normal(size=3)
    plain, centred = polynomial_kernel(degree, 0.5, 1.0), polynomial_kernel(degree, 0.5, 1.0, m)
    middle = m[None]
    expected = plain(x, y) - plain(x, middle) - plain(middle, y) + plain(middle, middle)
    np.testing.assert_allclose(centred(x, y), expected, rtol=1e-9, atol=1e-9)


def test_overflow_is_refused_in_words() -> None:
    x, y = pair(20, 20, 3)
    with pytest.raises(ValueError, match=r"kernel values overflow for samples up to .*e\+120; rescale both sets"):
        kernel_distance(1e120 * x, 1e120 * y)
