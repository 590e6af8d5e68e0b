"""Laws of the neighbour search: agreement with a k-d tree, exclusion by index, blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from fmbench.transport.distances import nearest, squared_distances, tie_width


def test_distances_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5)), rng.normal(size=(30, 5))
    np.testing.assert_allclose(squared_distances(x, y), cdist(x, y, "sqeuclidean"), rtol=1e-12, atol=1e-13)
    assert (squared_distances(x + 1e4, x + 1e4) >= 0).all()


@pytest.mark.parametrize("block", [1, 16, 1000])
@pytest.mark.parametrize("k", [1, 4])
def test_agrees_with_a_tree(block: int, k: int) -> None:
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(37, 3)), rng.normal(size=(53, 3))
    distance, index = cKDTree(y).query(x, k=[*range(1, k + 1)])
    found = nearest(x, y, k, block)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.squared, distance**2, rtol=1e-9)
    distance, index = cKDTree(x).query(x, k=[*range(2, k + 2)])
    found = nearest(x, k=k, block=block)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.squared, distance**2, rtol=1e-9)


def test_duplicates_are_neighbours_of_each_other_never_of_themselves() -> None:
    x = np.array([[0.0], [0.0], [1.0]])
    found = nearest(x, block=2)
    assert found.index[:, 0].tolist()[:2] == [1, 0]
    assert found.squared[:, 0].tolist() == [0, 0, 1]


def test_refuses_more_neighbours_than_points() -> None:
    x = np.zeros((3, 1))
    with pytest.raises(ValueError, match="between 1 and the 2 points there are to choose from, got 3"):
        nearest(x, k=3)
    with pytest.raises(ValueError, match="between 1 and the 3 points"):
        nearest(x, x, k=0)


@pytest.mark.parametrize("d", [2, 70])
@pytest.mark.parametrize("far", [0.0, 1e7, 1e12])
def test_one_far_point_costs_the_others_no_digits(d: int, far: float) -> None:
    rng = np.random.default_rng(d)
    x, y = rng.normal(size=(12, d)), rng.normal(size=(9, d))
    x[3] = y[5] = far
    y[1] = x[2]
    truth = ((x.astype(np.longdouble)[:, None] - y.astype(np.longdouble)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(squared_distances(x, y), truth.astype(np.float64), rtol=1e-12)
    assert squared_distances(x, y)[2, 1] == 0


@pytest.mark.parametrize("d", [3, 70])
@pytest.mark.parametrize("offset", [0.1, 1e6])
def test_a_tight_cloud_keeps_its_distances(d: int, offset: float) -> None:
    # Two clusters, so that no common centre is near both.
    rng = np.random.default_rng(5)
    x = np.repeat([[offset], [-offset]], 8, axis=0) + 1e-6 * rng.normal(size=(16, d))
    truth = ((x[:, None] - x) ** 2).sum(axis=-1)
    np.testing.assert_allclose(squared_distances(x, x), truth, rtol=1e-12)
    assert not squared_distances(x, x).diagonal().any()


@pytest.mark.parametrize("d", [2, 70, 500])
def test_ties_are_as_wide_as_rounding_and_no_wider(d: int) -> None:
    # Every corner of a cross-polytope is at the same distance from the others but its opposite, wherever it stands.
    corners = np.concatenate([np.eye(d), -np.eye(d)])
    for offset in (0.0, 0.1, 1e5):
        moved = corners + offset
        squared = squared_distances(moved, moved)
        others = squared[0, [1, -1]]
        assert np.abs(others - 2).max() <= tie_width(np.array([2.0]), moved[:1])[0]
    assert tie_width(np.array([2.0]), corners[:1])[0] < 1e-10
    assert tie_width(np.array([0.0]), corners[:1])[0] == 0
