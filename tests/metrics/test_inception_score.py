"""Laws of the inception score: its two extremes and the mixture in between (parity: tests/parity)."""

from __future__ import annotations

import numpy as np
import pytest

from fmbench.metrics.inception_score import inception_score, inception_score_estimate


def test_extremes() -> None:
    rng = np.random.default_rng(0)
    assert inception_score(np.tile(rng.normal(size=7), (50, 1))) == pytest.approx(1.0, abs=1e-12)
    confident = np.tile(1e4 * np.eye(7), (10, 1))
    assert inception_score(confident) == pytest.approx(7.0, rel=1e-12)
    assert inception_score(confident[::7]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_confident_answers_give_the_perplexity_of_their_classes(share: float) -> None:
    # Certain posteriors: the score is exp of the entropy of the class frequencies.
    n = 1000
    logits = np.zeros((n, 2))
    logits[: int(share * n), 0] = logits[int(share * n) :, 1] = 800
    perplexity = share**-share * (1 - share) ** (share - 1)
    assert inception_score(logits) == pytest.approx(perplexity, rel=1e-12)


def test_logits_are_defined_up_to_a_constant_per_sample() -> None:
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(60, 5))
    shifted = logits + 100 * rng.normal(size=(60, 1))
    assert inception_score(shifted) == pytest.approx(inception_score(logits), rel=1e-10)


def test_splits_average_interleaved_parts_and_lose_variety() -> None:
    logits = 4 * np.random.default_rng(3).normal(size=(120, 10))
    parts = [inception_score(logits[i::4]) for i in range(4)]
    assert inception_score(logits, splits=4) == pytest.approx(np.mean(parts))
    assert inception_score(logits, splits=30) < inception_score(logits, splits=4) < inception_score(logits)
    with pytest.raises(ValueError, match="splits must be between 1 and the 120 samples given, got 121"):
        inception_score(logits, splits=121)


def test_interval_has_the_width_of_the_sampling_spread() -> None:
    def draw(seed: int) -> np.ndarray:
        return 2 * np.random.default_rng(seed).normal(size=(300, 4))

    estimates = [inception_score_estimate(draw(seed)) for seed in range(60)]
    spread = np.std([e.value for e in estimates], ddof=1)
    errors = [(e.ci[1] - e.ci[0]) / 2 / 1.96 for e in estimates if e.ci is not None]
    assert len(errors) == 60
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)
    assert estimates[0].value == pytest.approx(inception_score(draw(0)))


@pytest.mark.parametrize("n", [4, 6, 9])
def test_intervals_of_few_answers_stay_between_one_and_the_number_of_classes(n: int) -> None:
    for seed in range(20):
        logits = 5 * np.random.default_rng(seed).normal(size=(n, 10))
        got = inception_score_estimate(logits)
        assert got.value is not None and got.ci is not None
        assert 1 <= got.ci[0] <= got.value <= got.ci[1] <= 10
    certain = 1e4 * np.eye(3)[np.arange(9) % 3]
    got = inception_score_estimate(certain)
    assert got.value == pytest.approx(3, rel=1e-12) and got.value <= 3
    assert got.ci is not None and got.ci[1] == 3
