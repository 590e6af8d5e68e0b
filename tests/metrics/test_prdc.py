"""Laws of precision, recall, density and coverage: parity with a brute force, geometry, expectations, ties (the prdc package: tests/parity)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fmbench.metrics import prdc as module
from fmbench.metrics.evidence import of_samples
from fmbench.metrics.prdc import prdc
from fmbench.metrics.reference import Reference


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
    got = getattr(module, quantity)(of_samples(x, y, sha256="hash"))
    assert got.value == pytest.approx(getattr(prdc(x, y), quantity))
    assert got.ci[0] < got.value < got.ci[1]
    assert got.n == (80 if quantity in ("precision", "density") else 90)


def test_measure_uses_features_where_there_are_any() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(50, 2)) + 50, rng.normal(size=(60, 2))
    sample = module.precision(of_samples(x, y, sha256="hash"))
    real = Reference(lambda: y, lambda: "hash", lambda: y)
    feature = module.precision(of_samples(x, real, features=lambda a: a - 50))
    assert sample.value == 0
    assert feature.value is not None
    assert feature.value > 0.5


def test_refuses_a_k_that_is_too_large() -> None:
    with pytest.raises(ValueError, match="k must be at least 1 and less than 4, the number of samples"):
        prdc(np.zeros((4, 1)), np.zeros((9, 1)), 4)


@pytest.mark.parametrize("d", [2, 66])
@pytest.mark.parametrize("side", ["generated", "real", "both"])
@pytest.mark.parametrize("closed", [False, True])
def test_one_far_sample_says_nothing_about_the_others(d: int, side: str, closed: bool) -> None:
    # At 1e7 the far sample is beyond every ball of the others, and in no ball that decides about them but its own.
    rng = np.random.default_rng(d)
    x, y = rng.normal(size=(60, d)), rng.normal(size=(50, d))
    before = prdc(x, y, closed=closed)
    far = np.full((1, d), 1e7)
    after = prdc(
        np.concatenate([x, far]) if side != "real" else x,
        np.concatenate([y, far]) if side != "generated" else y,
        closed=closed,
    )
    # The ball around a far sample reaches back to the others and may hold some of them: only ever more are inside.
    assert (after.inside_real[:60] >= before.inside_real).all()
    assert (after.inside_generated[:50] >= before.inside_generated).all()
    assert (after.covered[:50] == before.covered).all()
    assert (after.real_balls[:60] * 5).round().max() <= (before.real_balls * 5).round().max() + 1
    if side == "generated":
        assert (after.inside_real[:60] == before.inside_real).all() and not after.inside_real[60]
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(after, name) > 0.8 * getattr(before, name) > 0


@pytest.mark.parametrize("value", [1.0, 0.1, -1e7])
@pytest.mark.parametrize("d", [1, 66])
def test_equal_samples_are_inside_closed_balls_only(value: float, d: int) -> None:
    same = np.full((30, d), value)
    assert numbers(same, same, closed=True) == (1, 1, 6, 1)  # 30 balls hold a sample, in units of 5
    assert numbers(same, same) == (0, 0, 0, 0)
    apart = np.full((30, d), np.nextafter(value, np.inf))
    assert numbers(same, apart, closed=True) == (0, 0, 0, 0)


@pytest.mark.parametrize("d", [2, 66])
def test_a_set_is_inside_itself_however_its_samples_are_repeated(d: int) -> None:
    x = np.random.default_rng(1).normal(size=(20, d)) + 3
    for times in (1, 2, 7):
        repeated = np.repeat(x, times, axis=0)
        assert prdc(repeated, x, closed=True).precision == prdc(repeated, x, closed=True).coverage == 1
        assert prdc(x, repeated, closed=True).precision == prdc(x, repeated, closed=True).recall == 1
        # Open balls of radius 0 hold nothing: six copies and more of every real sample leave no ball.
        assert prdc(x, repeated).precision == (1 if times <= 5 else 0)
