"""Memorisation is looked for in the whole training set, and real data score themselves by halves."""

from __future__ import annotations

import numpy as np
import pytest

from fmbench.metrics.evidence import QUADRATIC, of_samples
from fmbench.metrics.memorisation import measure_ct

TRAIN = QUADRATIC + 2_000


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    random = np.random.default_rng(0)
    return random.normal(size=(TRAIN, 4)), random.normal(size=(600, 4)), random


def score(generated: np.ndarray, train: np.ndarray, held: np.ndarray) -> float:
    found = measure_ct(of_samples(generated, train, heldout=held))
    assert found.value is not None
    return found.value


def test_copies_of_training_points_beyond_the_first_ten_thousand_are_found(points: tuple) -> None:
    train, held, random = points
    copies = train[QUADRATIC:][:600] + 1e-3 * random.normal(size=(600, 4))
    assert score(copies, train, held) < -10
    assert abs(score(random.normal(size=(600, 4)), train, held)) < 4


def test_held_out_data_are_scored_by_halves_and_not_against_themselves(points: tuple) -> None:
    train, held, _ = points
    itself = score(held, train, held)
    assert itself == pytest.approx(score(held[::2], train, held[1::2]), abs=1e-12)
    assert itself != 0
    assert abs(itself) < 4
    memorised = score(held, np.concatenate([train, held[::2]]), held)
    assert memorised < -5  # half of the "held-out" points were trained on
