"""The Monge gap from independent samples: what its definition says of maps whose gap is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fmbench.metrics.monge_gap import debiased_gap, monge_gap


def rotated(x: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.column_stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1], x[:, 2:]])


def estimates(map_of: Callable[[np.ndarray], np.ndarray], d: int, n: int = 512, repeats: int = 6) -> np.ndarray:
    drawn = [np.random.default_rng([k, d]).normal(size=(n, d)) for k in range(repeats)]
    return np.array([debiased_gap(x, map_of(x)) for x in drawn])


@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("map_of", [lambda x: x + 3, lambda x: 2 * x, lambda x: 0.1 * x - 1])
def test_translations_and_scalings_waste_nothing_in_any_dimension(map_of: Callable, d: int) -> None:
    assert estimates(map_of, d, repeats=2) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("angle", [0.05, 0.5])
def test_a_rotation_costs_what_it_moves_although_it_changes_no_distribution(angle: float) -> None:
    truth = 4 * (1 - np.cos(angle))
    got = estimates(lambda x: rotated(x, angle), 2, n=1024)
    assert abs(got.mean() - truth) < 4 * got.std(ddof=1) / np.sqrt(len(got)) + 0.1 * truth
    x = np.random.default_rng(0).normal(size=(1024, 2))
    paired = monge_gap(x, rotated(x, angle))
    assert paired < got.mean() and (angle > 0.1 or paired < 0.05 * truth)


@pytest.mark.parametrize("d", [2, 16, 64])
def test_reflections_and_independent_pairs_score_their_whole_cost(d: int) -> None:
    random = np.random.default_rng(5)
    for truth, map_of in ((4 * d, lambda x: -x), (2 * d, lambda x: random.normal(size=x.shape))):
        got = estimates(map_of, d, repeats=4)
        assert got.mean() == pytest.approx(truth, rel=0.04)


def test_pairs_without_extent_are_refused() -> None:
    with pytest.raises(ValueError, match="no correlation"):
        debiased_gap(np.zeros((8, 2)), np.zeros((8, 2)))
    with pytest.raises(ValueError, match="at least 4 pairs"):
        debiased_gap(np.zeros((3, 2)), np.zeros((3, 2)))
