"""Laws of the neighbour search: agreement with a k-d tree, exclusion by index, blocks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from fmbench.transport.distances import nearest, squared_distances


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
