"""The learning rate of a recipe: linear warm-up, then cosine to zero or constant."""

from __future__ import annotations

import pytest

from fmbench.records.recipe import Training
from fmbench.training.run import learning_rate


@pytest.mark.parametrize(
    ("config", "factors"),
    [
        (Training(steps=10), {0: 1.0, 5: 0.5, 10: 0.0}),
        (Training(steps=10, schedule="constant"), {0: 1.0, 9: 1.0}),
        (Training(steps=100, schedule="constant", warmup=4), {0: 0.25, 1: 0.5, 3: 1.0, 50: 1.0}),
    ],
)
def test_learning_rate_schedule(config: Training, factors: dict[int, float]) -> None:
    assert {k: learning_rate(config, k) for k in factors} == pytest.approx(factors)
