"""Limits of the Sinkhorn divergence as the harness measures it."""

import numpy as np
import pytest

from fmbench.metrics.evidence import of_samples
from fmbench.metrics.sinkhorn_divergence import measure
from fmbench.transport.exact import wasserstein2


def sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return 1.5 * rng.normal(size=(40, 2)), rng.normal(size=(30, 2))


def test_a_constant_is_at_the_mean_squared_distance() -> None:
    # There is one plan only, so every epsilon gives it, and neither set's own entropy is left at epsilon 0.
    x, _ = sets()
    point = np.array([0.1, -0.7])
    got = measure(of_samples(x, np.tile(point, (30, 1)), sha256="hash"))
    assert got.value == pytest.approx(((x - point) ** 2).sum(axis=1).mean(), rel=1e-12)
    assert measure(of_samples(np.tile(point, (9, 1)), np.tile(point, (30, 1)), sha256="hash")).value == 0


@pytest.mark.slow
@pytest.mark.parametrize("shrink", [1e-3, 1e-6, 1e-12])
def test_a_shrinking_reference_goes_to_the_constant(shrink: float) -> None:
    x, y = sets()
    got = measure(of_samples(x, shrink * y, sha256="hash"))
    assert got.value == pytest.approx((x**2).sum(axis=1).mean(), rel=10 * shrink + 1e-6)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e9])
def test_far_samples_are_at_the_squared_distance(far: float) -> None:
    x, y = sets()
    got = measure(of_samples(x + far, y, sha256="hash"))
    assert got.value == pytest.approx(wasserstein2(x + far, y) ** 2, rel=5 / far**2 + 1e-7)
