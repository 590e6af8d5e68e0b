"""Laws of the memorisation metrics: copies, fresh samples (known probabilities), underfitting, duplicates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fmbench.metrics.evidence import of_samples
from fmbench.metrics.memorisation import authenticity, ct_score, exact_copies, measure, near_copies


def sets(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)), rng.normal(size=(n, d))


# Two points are mutual nearest neighbours with probability |ball| / |union of two balls a radius apart|.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "mutual"), [(1, 2 / 3), (2, 6 * math.pi / (8 * math.pi + 3 * math.sqrt(3))), (3, 16 / 27)]
)
def test_fresh_samples_are_as_authentic_as_nearest_neighbours_are_not_mutual(d: int, mutual: float) -> None:
    rng = np.random.default_rng(d)
    values = [authenticity(*rng.uniform(size=(2, 1500, d))) for _ in range(8)]
    # Edges of the cube shift it a little in three dimensions.
    assert np.mean(values) == pytest.approx(1 - mutual, abs=0.015)


def test_copies_are_not_authentic_and_outliers_are() -> None:
    train, _, fresh = sets(200, 4)
    assert authenticity(train + 1e-6, train) == 0
    assert authenticity(fresh + 100, train) == 1
    half = np.concatenate([train[:50], fresh[:50] + 100])
    assert authenticity(half, train) == 0.5


@pytest.mark.slow
def test_ct_is_standard_under_the_null() -> None:
    # One cell: a z score of two samples of one distribution.
    values = [ct_score(*sets(80, 3, seed), cells=1) for seed in range(60)]
    assert abs(np.mean(values)) < 3.5 / np.sqrt(60)
    assert np.std(values, ddof=1) == pytest.approx(1, abs=0.3)


def test_ct_sign() -> None:
    fresh, train, heldout = sets(300, 5)
    noise = np.random.default_rng(9).normal(size=train.shape)
    assert ct_score(train + 0.05 * noise, train, heldout) < -5
    assert ct_score(fresh * 2, train, heldout) > 5
    # Swapping generated and held-out points in a single cell swaps the sign exactly.
    forward, backward = ct_score(fresh, train, heldout, cells=1), ct_score(heldout, train, fresh, cells=1)
    assert forward == pytest.approx(-backward, abs=1e-9)


def test_ct_of_a_perfect_copier_is_the_extreme_of_the_statistic() -> None:
    # All generated distances are below all held-out ones: U = 0, so z = -(nm / 2) / sqrt(nm (n + m + 1) / 12).
    train, heldout, _ = sets(60, 3)
    n, m = 40, 60
    expected = -(n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    assert ct_score(train[:n] + 1e-9, train, heldout, cells=1) == pytest.approx(expected)


def test_ct_sees_copying_in_one_cell_only() -> None:
    rng = np.random.default_rng(5)
    centres = np.repeat([[-50.0, 0.0], [50.0, 0.0]], 150, axis=0)
    fresh, train, heldout = (centres + rng.normal(size=(300, 2)) for _ in range(3))
    mixed = np.concatenate([train[:150] + 1e-9, fresh[150:]])
    left = ct_score(train[:150] + 1e-9, train, heldout[:150], cells=2)
    assert ct_score(mixed, train, heldout, cells=2) == pytest.approx(left / 2, abs=1.5)
    assert left < -10


def test_ct_refuses_when_no_cell_is_left() -> None:
    with pytest.raises(ValueError, match="no cell has 20 generated and 20 held-out points; use fewer cells than 3"):
        ct_score(*sets(15, 2))
    with pytest.raises(ValueError, match="cells must be between 1 and the 15 training points, got 16"):
        ct_score(*sets(15, 2), cells=16)


def test_exact_copies() -> None:
    train, _, fresh = sets(20, 3)
    mixed = np.concatenate([train[:5], fresh[:15]])
    assert exact_copies(mixed, train) == 0.25
    assert exact_copies(np.nextafter(mixed, np.inf), train) == 0
    assert exact_copies(np.array([[-0.0, 1.0]]), np.array([[0.0, 1.0]])) == 1


def test_near_copies_and_their_scale_freedom() -> None:
    train, _, fresh = sets(100, 8)
    near = np.concatenate([train[:30] + 1e-3, fresh[:70]])
    assert near_copies(near, train) == pytest.approx(0.3, abs=0.03)
    assert near_copies(1e4 * near, 1e4 * train) == near_copies(near, train)
    # At x the distances to 0 and 1 are x and 1 - x, so the criterion is x < 1 / 4.
    line = np.array([[0.0], [1.0]])
    assert near_copies(np.array([[0.24], [0.26], [0.74], [0.76]]), line) == 0.5
    # Copies of a sample that is itself duplicated go unseen.
    assert near_copies(train, np.repeat(train, 2, axis=0)) == 0
    with pytest.raises(ValueError, match=r"ratio must be between 0 and 1, got 1\.5"):
        near_copies(near, train, ratio=1.5)


def test_measure_is_authenticity_against_the_reference() -> None:
    train, _, fresh = sets(120, 3)
    got = measure(of_samples(fresh, train, sha256="hash"))
    assert got.value == authenticity(fresh, train)
    assert got.ci is not None
    assert got.n == 120
    with pytest.raises(ValueError, match="train needs at least 2 samples"):
        authenticity(fresh, train[:1])


@pytest.mark.parametrize("d", [2, 66])
@pytest.mark.parametrize("far", [1e7, 1e12])
def test_one_far_training_point_changes_nothing(d: int, far: float) -> None:
    fresh, train, heldout = sets(80, d)
    mixed = np.concatenate([train[:20] + 1e-7, train[20:40], fresh[:40]])
    outlier = np.concatenate([train, np.full((1, d), far)])
    assert authenticity(mixed, outlier) == authenticity(mixed, train)
    assert near_copies(mixed, outlier) == near_copies(mixed, train) >= 0.5
    assert exact_copies(mixed, outlier) == 0.25
    # A far generated sample is one more authentic one.
    assert authenticity(np.concatenate([mixed, outlier[-1:]]), train) == pytest.approx(
        (80 * authenticity(mixed, train) + 1) / 81
    )
    assert ct_score(train, outlier, heldout, cells=1) < -5


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
def test_as_far_is_not_farther(offset: float) -> None:
    lattice = np.arange(10.0)[:, None] + offset
    ends = np.array([[-1.0], [10.0]]) + offset
    assert authenticity(ends, lattice) == 0
    assert authenticity(1.01 * (ends - offset - 4.5) + 4.5 + offset, lattice) == 1


def test_equal_training_points_are_all_as_near() -> None:
    same = np.full((30, 3), 0.1)
    assert authenticity(same, same) == near_copies(same, same) == 0
    assert ct_score(same, same, same, cells=1) == 0
