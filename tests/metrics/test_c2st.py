"""Laws of the classifier two-sample test: chance, the Bayes accuracy between Gaussians, certainty, seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from fmbench.metrics.c2st import c2st, held_out_correct, measure
from fmbench.metrics.evidence import of_samples
from fmbench.statistics.intervals import wilson_interval


def pair(n: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) + np.array([shift, 0]), rng.normal(size=(n, 2))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 2.0, 50.0])
def test_reaches_the_bayes_accuracy(shift: float) -> None:
    # The best classifier of N(0, I) against N(m, I) is right with probability Phi(|m| / 2).
    best, n = norm.cdf(shift / 2), 600
    accuracy = c2st(*pair(n, shift))
    assert accuracy == pytest.approx(best, abs=0.03 + 2 * np.sqrt(best * (1 - best) / (2 * n)))


def test_sees_what_no_linear_classifier_sees() -> None:
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 2 * np.pi, 300)
    ring = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert c2st(ring, 0.3 * rng.normal(size=(300, 2)), folds=2) > 0.95


def test_same_seed_same_value_and_unequal_sizes_stay_balanced() -> None:
    x, y = pair(120, 0.5)
    first = held_out_correct(x, y[:60], seed=3, folds=2)
    assert first.shape == (120,)
    np.testing.assert_array_equal(first, held_out_correct(x[:60], y[:60], seed=3, folds=2))
    assert (first != held_out_correct(x, y[:60], seed=4, folds=2)).any()


def test_nobody_is_judged_by_a_classifier_that_saw_it() -> None:
    # One nearest neighbour is always right about its own training points, and at chance about points it has not seen.
    from sklearn.neighbors import KNeighborsClassifier

    x, y = pair(400, 0.0)
    correct = held_out_correct(x, y, classifier=lambda dim, seed: KNeighborsClassifier(1))
    other = held_out_correct(x, y, seed=1, classifier=lambda dim, seed: KNeighborsClassifier(1))
    assert (correct != other).any(), "the seed must also choose the folds"
    assert correct.mean() == pytest.approx(0.5, abs=0.07)
    # Exact copies sit in other folds under the other label, so they push it below chance.
    assert held_out_correct(x, x, classifier=lambda dim, seed: KNeighborsClassifier(1)).mean() < 0.4


def test_measure_is_the_mean_with_its_interval() -> None:
    x, y = pair(100, 1.0)
    got = measure(of_samples(x, y, sha256="hash", seed=7))
    assert got.value == pytest.approx(c2st(x, y, seed=7))
    assert got.ci is not None
    low, high = wilson_interval(got.value, 200)
    assert got.ci[0] <= low < got.value < high <= got.ci[1]


def test_refuses_more_folds_than_samples() -> None:
    with pytest.raises(ValueError, match="folds must be between 2 and 12, the number of samples"):
        c2st(np.zeros((12, 1)), np.ones((19, 1)), folds=13)


@pytest.mark.slow
@pytest.mark.parametrize("folds", [2, 3, 5, 12])
def test_the_fewest_samples_are_said_and_are_enough(folds: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 2))
    assert 0 <= c2st(x, y, folds=folds) <= 1
    with pytest.raises(ValueError, match="y needs at least 12 samples, got 11"):
        c2st(x, y[:11], folds=folds)
