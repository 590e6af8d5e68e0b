"""Laws of precision, recall, density and coverage: parity with a brute force, geometry, expectations, ties (the prdc package: tests/parity)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fmbench.metrics import prdc as module
from fmbench.metrics.base import SampleContext
from fmbench.metrics.prdc import prdc


def numbers(*args: object, **kwargs: object) -> tuple[float, float, float, float]:
    result = prdc(*args, **kwargs)  # type: ignore[arg-type]
    return result.precision, result.recall, result.density, result.coverage


def brute_force(generated: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def radius(points: np.ndarray, i: int) -> float:
        return sorted(math.dist(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    radii = [radius(generated, i) for i in range(len(generated))]
    in_real = [[math.dist(g, r) < real_radii[i] for i, r in enumerate(real)] for g in generated]
    in_generated = [[math.dist(g, r) < radii[j] for j, g in enumerate(generated)] for r in real]
    return (
        sum(map(any, in_real)) / len(generated),
        sum(map(any, in_generated)) / len(real),
        sum(map(sum, in_real)) / (k * len(generated)),
        sum(any(row[i] for row in in_real) for i in range(len(real))) / len(real),
    )


@pytest.mark.parametrize(("n", "m", "k", "shift"), [(60, 60, 5, 0.8), (90, 40, 3, 1.5), (30, 70, 1, 0.0)])
def test_parity(n: int, m: int, k: int, shift: float) -> None:
    rng = np.random.default_rng(n)
    generated, real = rng.normal(size=(n, 3)) + shift, rng.normal(size=(m, 3))
    got = numbers(generated, real, k, block=16)
    assert got == pytest.approx(brute_force(generated, real, k), rel=1e-12)
    assert len(set(got)) > 2


def test_dropped_mode_costs_recall_and_invented_mode_costs_precision() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.normal(size=(2, 200, 2))
    both = np.concatenate([left, right + 100])
    dropped = prdc(rng.normal(size=(400, 2)), both)
    assert dropped.precision > 0.95
    assert 0.4 < dropped.recall < 0.51
    assert dropped.coverage < 0.51
    invented = prdc(both, rng.normal(size=(400, 2)))
    assert invented.recall > 0.95
    assert 0.4 < invented.precision < 0.51
    assert numbers(left + 1e3, right) == (0, 0, 0, 0)


def test_expectations_for_a_perfect_model() -> None:
    # Exchangeability: a ball misses all n generated samples with probability C(m-1, k) / C(m+n-1, k); density is 1.
    k, n, m = 3, 100, 150
    runs = [np.random.default_rng(s) for s in range(60)]
    results = [prdc(rng.normal(size=(n, 2)), rng.normal(size=(m, 2)), k) for rng in runs]
    for values, truth in (
        ([r.coverage for r in results], 1 - math.comb(m - 1, k) / math.comb(m + n - 1, k)),
        ([r.density for r in results], 1.0),
    ):
        assert abs(np.mean(values) - truth) < 3.5 * np.std(values, ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
def test_convention_for_ties(offset: float) -> None:
    # On a lattice a generated sample at a lattice point is exactly on the balls (k = 1) of its two neighbours.
    real = np.arange(10.0)[:, None] + offset
    generated = np.array([[4.0], [5.0]]) + offset
    assert prdc(generated, real, 1).density == 1
    assert prdc(generated, real, 1, closed=True).density == 3
    # Duplicated real samples have balls of radius zero, which only the closed convention lets a copy into.
    twice = np.repeat(real, 2, axis=0)
    assert prdc(generated, twice, 1).precision == 0
    assert prdc(generated, twice, 1, closed=True).precision == 1


@pytest.mark.parametrize("quantity", ["precision", "recall", "density", "coverage"])
def test_measures_give_the_same_numbers_with_intervals(quantity: str) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 2)) + 0.5, rng.normal(size=(90, 2))
    got = getattr(module, quantity)(SampleContext("vector", 0, x, y, "hash"))
    assert got.value == pytest.approx(getattr(prdc(x, y), quantity))
    assert got.ci[0] < got.value < got.ci[1]
    assert got.n == (80 if quantity in ("precision", "density") else 90)


def test_measure_uses_features_where_there_are_any() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(50, 2)) + 50, rng.normal(size=(60, 2))
    sample = module.precision(SampleContext("vector", 0, x, y, "hash"))
    feature = module.precision(SampleContext("image", 0, x, y, "hash", None, lambda a: a - 50, {"name": "shift"}, y))
    assert sample.value == 0
    assert feature.value is not None
    assert feature.value > 0.5


def test_refuses_a_k_that_is_too_large() -> None:
    with pytest.raises(ValueError, match="k must be at least 1 and less than 4, the number of samples"):
        prdc(np.zeros((4, 1)), np.zeros((9, 1)), 4)
