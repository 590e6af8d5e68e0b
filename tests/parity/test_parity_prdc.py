"""Parity with the prdc package 0.2 (k = 5, open balls): all four numbers, with ties and unequal sizes.

Ours agree exactly, since they are counts over n. The package measures by scikit-learn's Euclidean distances, like ours
``|x|^2 + |y|^2 - 2 x.y``, and compares roots; ours compares squares and calls what round-off cannot separate a tie.
"""

from __future__ import annotations

import numpy as np
import pytest

from fmbench.metrics.prdc import prdc

package = pytest.importorskip("prdc")

QUANTITIES = ("precision", "recall", "density", "coverage")


def both(generated: np.ndarray, real: np.ndarray, k: int) -> tuple[list[float], list[float]]:
    ours, theirs = prdc(generated, real, k), package.compute_prdc(real, generated, nearest_k=k)
    return [getattr(ours, q) for q in QUANTITIES], [float(theirs[q]) for q in QUANTITIES]


@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(500, 500, 16, 5), (300, 400, 64, 5), (400, 250, 256, 3), (150, 200, 4, 1)]
)
def test_the_four_numbers(n, m, d, k, feature_pair) -> None:
    ours, theirs = both(feature_pair(n, d)[0], feature_pair(m, d)[1], k)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert len(set(ours)) > 2
    assert min(ours) > 0.0


def test_ties_count_as_outside() -> None:
    # On an integer lattice distances are exact in both, and many lie exactly on a radius.
    rng = np.random.default_rng(0)
    generated, real = rng.integers(0, 12, size=(2, 120, 2)).astype(np.float64)
    generated[::2] += 5.0
    ours, theirs = both(generated, real, 3)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert prdc(generated, real, 3, closed=True).density > 1.1 * ours[2]
