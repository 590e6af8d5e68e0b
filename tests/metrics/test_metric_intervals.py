"""Intervals of the sample metrics: equal to brute force, and seeded simulations of how often they cover.

A 95 % interval is for the expectation of the statistic at its number of samples. Intervals whose half-width is wrong by
30 % leave the band: they cover 0.83 and 0.99 of normal values.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmbench.metrics import c2st, frechet, kernel, mmd, prdc, sliced, wasserstein
from fmbench.metrics.evidence import Evidence, of_samples
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import deletions, squared_interval, wilson_interval
from fmbench.statistics.moments import Moments
from fmbench.transport.exact import wasserstein2
from fmbench.transport.sliced import sliced_wasserstein2

BAND = (0.92, 0.975)


def share_covered(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([e.ci is not None and e.ci[0] <= truth <= e.ci[1] for e in estimates]))


def context(x: np.ndarray, y: np.ndarray, fresh: bool = False) -> Evidence:
    return of_samples(x, y, features=lambda a: a, fresh_reference=fresh)


# -- shortcuts agree with recomputation -------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_intervals_of_squared_discrepancies_are_the_brute_force_ones(fresh: bool) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(83, 3)) + 0.5, rng.normal(size=(61, 3))
    everything = np.ones(61, dtype=bool)
    left = [(a, b if fresh else everything) for a, b in deletions(83, 61 if fresh else None)]

    def brute(
        distance: Callable[[np.ndarray, np.ndarray], float], offset: float = 0.0, groups: Any = left
    ) -> tuple[float, float] | None:
        return squared_interval(distance(x, y), np.array([distance(x[a], y[b]) for a, b in groups]), offset)

    def offset(k: mmd.Kernel) -> float:
        biased = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
        return float(biased) - mmd.mmd_squared(x, y, k)

    cubic, gaussian = kernel.polynomial_kernel(3, 1 / 3, 1.0), mmd.gaussian_kernel(mmd.median_bandwidth(y))
    here = context(x, y, fresh)
    moments = Moments.of
    assert frechet.measure(here).ci == pytest.approx(brute(lambda a, b: frechet.between(moments(a), moments(b))))
    # The kernel distance is about the distributions, whatever the reference.
    both = deletions(83, 61)
    assert kernel.measure(here).ci == pytest.approx(brute(kernel.kernel_distance, offset(cubic), both))
    assert mmd.measure(here).ci == pytest.approx(brute(lambda a, b: mmd.mmd_squared(a, b, gaussian), offset(gaussian)))
    few = sliced.JACKKNIFE_PROJECTIONS
    roots = [sliced_wasserstein2(x[a], y[b], few) for a, b in left]
    squares = squared_interval(sliced_wasserstein2(x, y) ** 2, np.square(roots))
    assert squares is not None
    assert sliced.measure(here).ci == pytest.approx(tuple(math.sqrt(end) for end in squares))


@pytest.mark.parametrize(("n", "k"), [(100, 5), (61, 5), (23, 2)])
def test_balls_without_a_group_are_those_of_the_other_samples(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 2)) + 0.7, rng.normal(size=(50, 2))
    groups = min(20, n // 2)
    brute = [prdc.prdc(x[kept], y, k) for kept, _ in deletions(n)]
    assert prdc.recall_without_groups(x, y, k, groups) == pytest.approx([b.recall for b in brute])
    assert prdc.coverage_without_groups(x, y, k, groups) == pytest.approx([b.coverage for b in brute])


# -- coverage of the metrics ------------------------------------------------------------------------------------------

D, SCALE, SHIFT = 3, 1.2, 0.5


def pairs(count: int, n: int, fresh: bool, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Independent N(0.5, 1.2^2 I) against N(0, I) in three dimensions, the same reference for all or a fresh one for each."""
    rng = np.random.default_rng(seed)
    fixed = rng.normal(size=(n, D))
    draw = lambda: rng.normal(SHIFT, SCALE, size=(n, D))  # noqa: E731
    return [(draw(), rng.normal(size=(n, D)) if fresh else fixed) for _ in range(count)]


CASES = {
    "wasserstein2": (wasserstein.measure, wasserstein2, 50, 250),
    "sliced_wasserstein2": (sliced.measure, sliced_wasserstein2, 60, 200),
    "frechet_distance": (
        frechet.measure,
        lambda x, y: frechet.between(Moments.of(x), Moments.of(y)),
        80,
        250,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_expectation_of_a_biased_distance_is_covered(name: str, fresh: bool) -> None:
    measure, distance, n, repetitions = CASES[name]
    drawn = pairs(3 * repetitions, n, fresh, seed=11)
    made = [measure(context(x, y, fresh)) for x, y in drawn[:repetitions]]
    truth = np.mean([distance(x, y) for x, y in drawn])
    assert BAND[0] <= share_covered(made, float(truth)) <= BAND[1]


def gaussian_product(offset: np.ndarray, variance: float) -> np.ndarray:
    """E k(X, y) of the Gaussian kernel of bandwidth 1 when X - y is N(offset, variance I): (..., d) -> (...)."""
    d = offset.shape[-1]
    return (1 + variance) ** (-d / 2) * np.exp(-(offset**2).sum(axis=-1) / (2 * (1 + variance)))


@pytest.mark.parametrize("fresh", [False, True])
def test_true_gaussian_mmd_is_covered(fresh: bool) -> None:
    drawn, k = pairs(300, 80, fresh, seed=12), mmd.gaussian_kernel(1.0)
    zero, shift = np.zeros(D), np.full(D, SHIFT)
    y = drawn[0][1]
    within = float(gaussian_product(zero, 2 * SCALE**2))
    if fresh:
        truth = within + float(gaussian_product(zero, 2.0)) - 2 * float(gaussian_product(shift, 1 + SCALE**2))
    else:
        others = (k(y, y).sum() - len(y)) / (len(y) * (len(y) - 1))
        truth = within + others - 2 * float(gaussian_product(shift - y, SCALE**2).mean())
    made = [mmd.mmd_estimate(x, y, k, fresh_reference=fresh) for x, y in drawn]
    assert BAND[0] <= share_covered(made, truth) <= BAND[1]


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
def test_true_kernel_distance_is_covered(fresh: bool) -> None:
    # In one dimension (x y + 1)^3 compares three moments: KD = 3 (dm1)^2 + 3 (dm2)^2 + (dm3)^2.
    rng = np.random.default_rng(13)
    n, repetitions = 80, 300
    fixed = rng.uniform(0, 1, size=(n, 1))
    weights, powers = np.array([3.0, 3.0, 1.0]), np.arange(1, 4)
    shifted, uniform = (1.4 ** (powers + 1) - 0.4 ** (powers + 1)) / (powers + 1), 1 / (powers + 1)
    if fresh:
        truth = float(weights @ (shifted - uniform) ** 2)
    else:
        raised = fixed**powers
        pairs_of_y = (raised.sum(axis=0) ** 2 - (raised**2).sum(axis=0)) / (n * (n - 1))
        truth = float(weights @ (shifted**2 + pairs_of_y - 2 * shifted * raised.mean(axis=0)))
    made = []
    for _ in range(repetitions):
        x = rng.uniform(0.4, 1.4, size=(n, 1))
        made.append(kernel.measure(context(x, rng.uniform(0, 1, size=(n, 1)) if fresh else fixed, fresh)))
    assert np.mean([e.value for e in made]) == pytest.approx(truth, rel=0.05)
    assert BAND[0] <= share_covered(made, truth) <= BAND[1]


@pytest.mark.slow
def test_a_small_fresh_reference_decides_the_width() -> None:
    rng = np.random.default_rng(14)
    drawn = [(rng.normal(SHIFT, SCALE, size=(160, D)), rng.normal(size=(40, D))) for _ in range(600)]
    truth = float(np.mean([wasserstein2(x, y) for x, y in drawn]))
    held, fresh = ([wasserstein.measure(context(x, y, f)) for x, y in drawn[:150]] for f in (False, True))
    assert share_covered(held, truth) < 0.75
    assert BAND[0] <= share_covered(fresh, truth) <= BAND[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["precision", "recall", "density", "coverage"])
def test_expectations_of_the_ball_shares_are_covered(name: str) -> None:
    rng = np.random.default_rng(21)
    y = rng.normal(size=(120, 4))
    drawn = [rng.normal(size=(120, 4)) + 0.5 for _ in range(500)]
    truth = np.mean([getattr(prdc.prdc(x, y), name) for x in drawn])
    made = [getattr(prdc, name)(context(x, y)) for x in drawn[: 300 if name in ("precision", "density") else 120]]
    # The jackknife of recall errs on the wide side, so that its band starts higher.
    assert (0.94 if name == "recall" else BAND[0]) <= share_covered(made, float(truth)) <= BAND[1]


def test_accuracy_over_folds_that_share_their_training_data_is_covered() -> None:
    # Folds of 400 samples whose accuracies correlate by 1 / 5, what the correction of Nadeau and Bengio assumes.
    rng = np.random.default_rng(19)
    held_out = np.split(np.arange(2000), 5)
    made = []
    for _ in range(600):
        rates = 0.7 + 0.05 * rng.normal() + 0.1 * rng.normal(size=5)
        hits = np.concatenate([np.arange(400) < round(400 * rate) for rate in rates]).astype(np.float64)
        made.append(c2st.accuracy_estimate(hits, held_out))
    assert BAND[0] <= share_covered(made, 0.7) <= BAND[1]
    # Equal folds show no spread: what remains is the binomial interval, and at 1 it still has a width.
    even = np.tile(np.arange(400) < 300, 5).astype(np.float64)
    assert c2st.accuracy_estimate(even, held_out).ci == wilson_interval(0.75, 2000)
    assert c2st.accuracy_estimate(np.ones(2000), held_out).ci == wilson_interval(1.0, 2000)


@pytest.mark.parametrize("name", ["precision", "recall", "coverage"])
@pytest.mark.parametrize("only_seed", [False, True])
def test_perfect_shares_keep_a_width(name: str, only_seed: bool) -> None:
    x = np.random.default_rng(16).uniform(size=(400, 1))
    y = np.linspace(0.3, 0.7, 30)[:, None]
    inside = x if name != "precision" else 0.3 + 0.4 * x
    here = of_samples(inside, y, sha256="hash", only_seed=only_seed)
    got = getattr(prdc, name)(here)
    assert got.value == 1.0
    assert got.ci is not None
    assert got.ci[0] < 1.0 == got.ci[1]


# -- the closed form of W2's interval ---------------------------------------------------------------------------------


def test_far_apart_w2_varies_like_the_mean_displacement() -> None:
    # |x + L e - y| is L + (x - y) e to first order: a mean over samples, whose interval is known.
    rng = np.random.default_rng(17)
    x, y = rng.normal((1e4, 0.0), 1.0, size=(200, 2)), rng.normal(size=(150, 2))
    fixed, fresh = (wasserstein.wasserstein2_estimate(x, y, f).ci for f in (False, True))
    assert fixed is not None
    assert fresh is not None
    errors = x[:, 0].std(ddof=1) / math.sqrt(200), y[:, 0].std(ddof=1) / math.sqrt(150)
    assert (fixed[1] - fixed[0]) / 2 == pytest.approx(1.96 * errors[0], rel=1e-2)
    assert (fresh[1] - fresh[0]) / 2 == pytest.approx(1.96 * math.hypot(*errors), rel=1e-2)


def test_w2_interval_stops_at_zero_and_is_missing_where_nothing_is_known() -> None:
    rng = np.random.default_rng(18)
    x = rng.normal(size=(30, 2))
    assert wasserstein.wasserstein2_estimate(x, x[::-1]) == Estimate(0.0, None, 30)
    assert wasserstein.wasserstein2_estimate(x[:1], x[1:]).ci is None
    near = wasserstein.wasserstein2_estimate(rng.normal(size=(3, 1)), rng.normal(size=(3, 1)), True).ci
    assert near is not None
    assert near[0] >= 0
    several = of_samples(x, x + 1.0, sha256="hash", only_seed=False)
    assert wasserstein.measure(several).ci is None
