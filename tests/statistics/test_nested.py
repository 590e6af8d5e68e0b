"""The interval of a mean over trainings that were evaluated on the same seeds: simulated coverage, and limits."""

from __future__ import annotations

import numpy as np
import pytest

from fmbench.statistics.nested import half_width, half_width_from
from fmbench.statistics.student import t95

REPEATS = 4000


@pytest.mark.parametrize(("trainings", "seeds"), [(3, 5), (5, 10)])
@pytest.mark.parametrize(
    ("between", "shared", "own"), [(1, 0, 0.3), (0, 1, 0.3), (1, 1, 1), (0.3, 0.3, 1), (1, 3, 0), (0, 0, 1)]
)
def test_it_covers_whatever_part_of_the_noise_is_large(
    trainings: int, seeds: int, between: float, shared: float, own: float
) -> None:
    random, covered = np.random.default_rng([trainings, seeds]), 0
    for _ in range(REPEATS):
        y = (
            between * random.normal(size=(trainings, 1))
            + shared * random.normal(size=(1, seeds))
            + own * random.normal(size=(trainings, seeds))
        )
        covered += abs(y.mean()) <= half_width(y)
    # Three standard errors of the simulation are 1 %; it errs towards wide where one of the parts is nothing.
    assert 0.925 <= covered / REPEATS <= 0.995


def test_more_seeds_do_not_help_where_trainings_differ_and_the_other_way_round() -> None:
    random = np.random.default_rng(0)
    rows, columns = random.normal(size=(5, 1)), random.normal(size=(1, 40))
    alike = half_width(rows + np.zeros((5, 40)))
    assert alike == pytest.approx(t95(4) * rows.std(ddof=1) / 5**0.5)
    same = half_width(np.zeros((5, 1)) + columns)
    assert same == pytest.approx(t95(39) * columns.std(ddof=1) / 40**0.5)


def test_stated_errors_count_as_common_to_all_trainings() -> None:
    values, errors = np.array([1.0, 1.2, 0.8]), np.full(3, 0.5)
    assert half_width_from(values, np.zeros(3), 19) == pytest.approx(t95(2) * 0.2 / 3**0.5)
    assert half_width_from(np.ones(3), errors, 19) == pytest.approx(t95(19) * 0.5)
    assert half_width_from(values, errors, 19) > max(t95(19) * 0.5, 0.2)
    assert half_width_from(np.ones(3), np.zeros(3), 19) == 0
