"""Laws of the kernel distance: parity on one full subset, closed form of the linear kernel, unbiasedness, jackknife."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmbench.metrics.base import SampleContext, jackknife_estimate
from fmbench.metrics.kernel import kernel_distance, measure


def pair(n: int = 120, m: int = 120, d: int = 10, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + m)
    return rng.normal(size=(n, d)) + shift, rng.normal(size=(m, d)) * 1.1


def test_parity_on_one_subset_that_holds_everything() -> None:
    clean_fid = pytest.importorskip("cleanfid.fid")
    torchmetrics_kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = pair()
    value = kernel_distance(x, y)
    assert float(torchmetrics_kid.poly_mmd(torch.from_numpy(y), torch.from_numpy(x))) == pytest.approx(value, rel=1e-9)
    assert clean_fid.kernel_distance(y, x, num_subsets=1, max_subset_size=len(x)) == pytest.approx(value, rel=1e-9)


def test_parity_of_other_parameters() -> None:
    torchmetrics_kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = pair()
    other = torchmetrics_kid.poly_mmd(torch.from_numpy(y), torch.from_numpy(x), degree=2, gamma=0.7, coef=0.2)
    assert kernel_distance(x, y, degree=2, gamma=0.7, coef0=0.2) == pytest.approx(float(other), rel=1e-9)


def test_linear_kernel_is_the_unbiased_squared_difference_of_means() -> None:
    # E over pairs i != j of x_i.x_j is |mean|^2 - tr cov / n: the kernel has a closed form for unequal n and m.
    x, y = pair(90, 130)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() - np.trace(np.cov(x.T)) / 90 - np.trace(np.cov(y.T)) / 130
    assert kernel_distance(x, y, degree=1, gamma=1.0) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(x, y, degree=1, gamma=1.0, coef0=9.0) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_do_not_change_the_value(block: int) -> None:
    x, y = pair(33, 50, 4)
    assert kernel_distance(x, y, block=block) == pytest.approx(kernel_distance(x, y), rel=1e-12)


def test_unbiased_and_sometimes_negative_for_equal_distributions() -> None:
    values = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        values.append(kernel_distance(rng.normal(size=(30, 5)), rng.normal(size=(20, 5))))
    assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / np.sqrt(len(values))
    assert 0.2 < np.mean(np.array(values) < 0) < 0.8


def test_rotation_and_order_do_not_matter_translation_does() -> None:
    x, y = pair(40, 60, 6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    value = kernel_distance(x, y)
    assert kernel_distance(x @ turn, y @ turn) == pytest.approx(value, rel=1e-10)
    assert kernel_distance(y[::-1], x) == pytest.approx(value, rel=1e-10)
    assert kernel_distance(x + 1, y + 1) != pytest.approx(value, rel=1e-3)


def test_measure_is_the_brute_force_jackknife() -> None:
    x, y = pair(83, 70, 5)
    got = measure(SampleContext("image", 0, x, y, "hash", None, lambda a: a, {"name": "id"}, y))
    brute = jackknife_estimate(lambda kept: kernel_distance(x[kept], y), len(x))
    assert got.value == pytest.approx(brute.value, rel=1e-10)
    assert got.ci == pytest.approx(brute.ci, rel=1e-9)
    assert got.details["reference_n"] == 70
    assert measure(SampleContext("vector", 0, x, y, "hash")).value is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 0}, "degree must be a positive integer, got 0"),
        ({"block": 0}, "block must be at least 1, got 0"),
        ({"x": np.zeros((1, 10))}, "x needs at least 2 samples, got 1"),
        ({"y": np.zeros((5, 9))}, "same dimension, got 10 and 9"),
        ({"x": np.full((5, 10), np.nan)}, "x has 50 NaN or infinite values"),
    ],
)
def test_refuses_in_one_line(arguments: dict, message: str) -> None:
    x, y = pair()
    with pytest.raises(ValueError, match=message) as error:
        kernel_distance(**{"x": x, "y": y, **arguments})
    assert "\n" not in str(error.value)
