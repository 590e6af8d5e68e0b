"""Laws of the Gaussian MMD: its closed form between Gaussians, unbiasedness, the median heuristic, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from fmbench.metrics.evidence import of_samples
from fmbench.metrics.mmd import (
    gaussian_kernel,
    gaussian_mmd_squared,
    measure,
    median_bandwidth,
    mmd_estimate,
    mmd_squared,
)
from fmbench.statistics.intervals import deletions, squared_interval


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_closed_form_between_gaussians(shift: float) -> None:
    # X - X' is N(m, 2 I), so E k = (h^2 / (h^2 + 2))^(d/2) exp(-|m|^2 / (2 (h^2 + 2))).
    d, h = 3, 1.3
    scale = (h**2 / (h**2 + 2)) ** (d / 2)
    truth = 2 * scale * (1 - np.exp(-d * shift**2 / (2 * (h**2 + 2))))
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values.append(gaussian_mmd_squared(rng.normal(size=(40, d)) + shift, rng.normal(size=(60, d)), bandwidth=h))
    assert abs(np.mean(values) - truth) < 3 * np.std(values, ddof=1) / np.sqrt(len(values))
    assert np.std(values, ddof=1) / np.sqrt(len(values)) < 0.004


def test_two_points_a_side() -> None:
    # Within: one distinct pair each, exp(-1/2) and exp(-2); across: distances around 50, nothing at this bandwidth.
    x, y = np.array([[0.0], [1.0]]), np.array([[50.0], [52.0]])
    assert gaussian_mmd_squared(x, y, bandwidth=1.0) == pytest.approx(np.exp(-0.5) + np.exp(-2.0), rel=1e-12)


def test_median_of_known_distances_and_scaling() -> None:
    assert median_bandwidth(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)
    assert median_bandwidth(np.array([[0.0], [0.0]]), np.array([[4.0], [4.0]])) == pytest.approx(4.0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 2)) + 1, rng.normal(size=(70, 2))
    assert median_bandwidth(5 * y) == pytest.approx(5 * median_bandwidth(y))
    assert gaussian_mmd_squared(5 * x, 5 * y) == pytest.approx(gaussian_mmd_squared(x, y), rel=1e-9)
    single = np.asarray(y, dtype=np.float32)
    assert median_bandwidth(single) == pytest.approx(median_bandwidth(y), rel=1e-6)


def test_no_block_is_larger_than_asked() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 50, 3))
    kernel, shapes = gaussian_kernel(1.0), []

    def spy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        shapes.append((len(a), len(b)))
        return kernel(a, b)

    assert mmd_squared(x, y, spy, block=8) == pytest.approx(mmd_squared(x, y, kernel), rel=1e-12)
    assert max(max(shape) for shape in shapes) == 8


@pytest.mark.parametrize("n", [4, 5, 61])
def test_jackknife_is_the_brute_force_one(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 2)) + 0.5, rng.normal(size=(40, 2))
    kernel = gaussian_kernel(0.8)
    got = mmd_estimate(x, y, kernel, block=16)
    value = mmd_squared(x, y, kernel)
    partial = np.array([mmd_squared(x[kept], y, kernel) for kept, _ in deletions(n)])
    offset = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean() - value
    assert got.value == pytest.approx(value, rel=1e-10)
    assert got.ci == pytest.approx(squared_interval(value, partial, offset), rel=1e-9)


def test_interval_has_the_width_of_the_sampling_spread() -> None:
    y, kernel = np.random.default_rng(0).normal(size=(500, 2)), gaussian_kernel(1.0)
    estimates = [mmd_estimate(np.random.default_rng(s).normal(size=(200, 2)) + 0.5, y, kernel) for s in range(1, 61)]
    spread = np.std([e.value for e in estimates], ddof=1)
    errors = [(e.ci[1] - e.ci[0]) / 2 / 1.96 for e in estimates if e.ci is not None]
    assert len(errors) == 60
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)


def test_measure_takes_its_bandwidth_from_the_reference_alone() -> None:
    rng = np.random.default_rng(3)
    y = rng.normal(size=(60, 2))
    near, far = (measure(of_samples(rng.normal(size=(50, 2)) + s, y, sha256="hash")) for s in (0.0, 9.0))
    assert near.details["bandwidth"] == far.details["bandwidth"] == pytest.approx(median_bandwidth(y))
    assert near.value < 0.1 < far.value


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, np.inf, np.nan])
def test_refuses_a_bandwidth_without_meaning(bandwidth: float) -> None:
    with pytest.raises(ValueError, match="bandwidth must be positive and finite"):
        gaussian_mmd_squared(np.zeros((3, 1)), np.ones((3, 1)), bandwidth=bandwidth)


def test_refuses_constant_reference() -> None:
    with pytest.raises(ValueError, match="half of the pairs of the 5 reference samples are equal"):
        gaussian_mmd_squared(np.random.default_rng(0).normal(size=(5, 2)), np.ones((5, 2)))
