"""Do 95 % intervals of means, shares, seeds and the jackknife cover 95 %? Those of the metrics: test_metric_intervals.

Intervals whose half-width is wrong by 30 % leave the band: they cover 0.83 and 0.99 of normal values.
"""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from fmbench.records.ranges import NON_NEGATIVE, UNIT
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import (
    deletions,
    enclosing,
    jackknife_error,
    jackknife_estimate,
    mean_estimate,
    over_seeds,
    proportion_estimate,
    squared_interval,
    wilson_interval,
)

BAND = (0.92, 0.975)


def share_covered(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([e.ci is not None and e.ci[0] <= truth <= e.ci[1] for e in estimates]))


# -- means, shares, seeds: known distributions ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 30])
def test_mean_of_normal_values_is_covered(n: int) -> None:
    draws = np.random.default_rng(n).normal(3.0, 2.0, size=(2000, n))
    assert share_covered([mean_estimate(values) for values in draws], 3.0) == pytest.approx(0.95, abs=0.012)


def test_mean_of_skewed_values_is_nearly_covered() -> None:
    draws = np.random.default_rng(0).normal(size=(1500, 100)) ** 2
    assert 0.92 < share_covered([mean_estimate(values) for values in draws], 1.0) < 0.95


def test_mean_of_one_value_has_no_interval_and_of_none_is_refused() -> None:
    assert mean_estimate(np.array([2.0])) == Estimate(2.0, None, 1)
    with pytest.raises(ValueError, match="needs at least 1 value, got none"):
        mean_estimate(np.array([]))


@pytest.mark.parametrize("n", [50, 200, 1000])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.96])
def test_probability_is_covered_by_the_exact_binomial_sum(share: float, n: int) -> None:
    hits = np.arange(n + 1)
    bounds = np.array([wilson_interval(k / n, n) for k in hits])
    covered = (bounds[:, 0] <= share) & (share <= bounds[:, 1])
    assert BAND[0] < binom.pmf(hits, n, share) @ covered < BAND[1]


@pytest.mark.parametrize("hits", [0, 1, 37, 40])
def test_shares_have_scipys_wilson_interval_with_a_width_at_the_ends(hits: int) -> None:
    got = proportion_estimate(np.arange(40) < hits, k=5)
    theirs = binomtest(hits, 40).proportion_ci(method="wilson")
    assert got.ci == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert got.ci is not None
    assert got.ci[0] <= hits / 40 <= got.ci[1]
    assert got.ci[1] - got.ci[0] > 0.05
    assert (got.value, got.n, got.details) == (hits / 40, 40, {"k": 5})


def test_shares_refuse_what_is_no_share() -> None:
    with pytest.raises(ValueError, match=r"all 0 or 1, got \[0\.5"):
        proportion_estimate(np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="at least 1 value"):
        proportion_estimate(np.array([]))
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\] and n positive, got 1\.5 and 3"):
        wilson_interval(1.5, 3)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_expectation_is_covered_over_seeds(seeds: int) -> None:
    draws = np.random.default_rng(seeds).normal(1.0, 0.1, size=(2000, seeds))
    combined = [over_seeds([Estimate(float(v), n=10) for v in row]) for row in draws]
    assert share_covered(combined, 1.0) == pytest.approx(0.95, abs=0.012)
    assert combined[0].n == 10 * seeds
    assert combined[0].details["per_seed"] == draws[0].tolist()


def test_one_seed_keeps_its_interval_and_none_is_refused() -> None:
    alone = Estimate(2.0, (1.0, 4.0), 7)
    assert over_seeds([alone]) is alone
    with pytest.raises(ValueError, match="at least one estimate, got none"):
        over_seeds([])


def test_mean_over_seeds_is_missing_when_any_seed_is() -> None:
    gone = Estimate.missing("the samples are NaN")
    assert over_seeds([gone, gone]).reason == "the samples are NaN"
    got = over_seeds([Estimate(1.0), gone, Estimate(1.5)])
    assert (got.value, got.ci) == (None, None)
    assert got.reason == "1 of 3 seeds have no value: the samples are NaN"


def test_seeds_that_agree_pool_their_own_intervals() -> None:
    hits = np.ones(100, dtype=bool)
    once, thrice = proportion_estimate(hits), over_seeds([proportion_estimate(hits)] * 3)
    pooled = proportion_estimate(np.ones(300, dtype=bool))
    assert once.ci is not None
    assert thrice.ci is not None
    assert pooled.ci is not None
    assert thrice.ci[1] == thrice.value == 1.0
    # Wider than the binomial interval of all samples together, narrower than that of one seed.
    assert once.ci[0] < thrice.ci[0] < pooled.ci[0]
    # 0.1 three times does not average to 0.1 in floating point; no spread is no spread all the same.
    assert over_seeds([Estimate(0.1)] * 3).ci == (0.1, 0.1)


# -- the jackknife ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "groups"), [(40, 40, 20), (203, 45, 20), (9, 30, 4), (4, 4, 2)])
def test_every_sample_is_left_out_once(n: int, m: int, groups: int) -> None:
    left = deletions(n, m)
    assert len(left) == groups
    for side, size in ((0, n), (1, m)):
        assert (np.sum([~kept[side] for kept in left], axis=0) == np.ones(size)).all()
    assert deletions(3) == deletions(50, 3) == []
    assert all(len(kept) == 0 for _, kept in deletions(n))


def test_jackknife_of_the_mean_is_its_standard_error_over_groups() -> None:
    x = np.random.default_rng(0).normal(size=200)
    means = x.reshape(10, 20).mean(axis=0)
    got = jackknife_estimate(lambda rows: float(x[rows].mean()), 200)
    by_groups = mean_estimate(means)
    assert got.ci == pytest.approx(by_groups.ci, rel=1e-9)
    partial = np.array([x[kept].mean() for kept, _ in deletions(200)])
    assert jackknife_error(partial) == pytest.approx(means.std(ddof=1) / math.sqrt(20), rel=1e-9)


def test_jackknife_covers_a_smooth_statistic() -> None:
    # The expectation of the sample variance is the variance.
    draws = np.random.default_rng(5).uniform(size=(500, 100))
    made = [jackknife_estimate(lambda rows, x=x: float(x[rows].var(ddof=1)), 100) for x in draws]
    assert BAND[0] < share_covered(made, 1 / 12) < BAND[1]


def test_interval_of_a_square_is_the_square_of_an_interval() -> None:
    x = np.random.default_rng(1).normal(5.0, 1.0, size=100)
    plain = jackknife_estimate(lambda rows: float(x[rows].mean()), 100).ci
    partial = np.array([x[kept].mean() ** 2 for kept, _ in deletions(100)])
    squared = squared_interval(float(x.mean()) ** 2, partial)
    assert plain is not None
    assert squared is not None
    assert squared == pytest.approx((plain[0] ** 2, plain[1] ** 2), rel=1e-9)
    moved = squared_interval(float(x.mean()) ** 2 - 7.0, partial - 7.0, offset=7.0)
    assert moved == pytest.approx((squared[0] - 7.0, squared[1] - 7.0), rel=1e-9)
    # Below zero there is no distance: the lower end stops there, and the upper end stays positive.
    assert squared_interval(0.01, np.array([0.0, 0.04, -0.1]))[0] == 0.0  # type: ignore[index]
    assert squared_interval(1.0, np.array([1.0])) is None


# -- ranges -----------------------------------------------------------------------------------------------------------


def test_an_interval_holds_its_value_and_stays_inside_the_range() -> None:
    assert enclosing(0.5, 0.2, 0.9) == (0.2, 0.9)
    assert enclosing(0.5, 0.6, 0.9) == (0.5, 0.9)  # a bias correction has moved both ends away
    assert enclosing(0.5, -0.4, 1.3, UNIT) == (0.0, 1.0)
    assert enclosing(0.0, -1e-17, 2.0, NON_NEGATIVE) == (0.0, 2.0)
    assert enclosing(1.0, -math.inf, 2.0) is None
    assert enclosing(1.0, math.nan, math.nan) is None


def test_cutting_to_the_range_loses_no_coverage() -> None:
    # Seven of eight shares lie at an end: the plain interval leaves [0, 1] nearly always.
    draws = np.random.default_rng(8).beta(0.3, 0.05, size=(1000, 5))
    plain = [over_seeds([Estimate(float(v)) for v in row]) for row in draws]
    cut = [over_seeds([Estimate(float(v)) for v in row], UNIT) for row in draws]
    truth = 0.3 / 0.35
    assert share_covered(cut, truth) == share_covered(plain, truth)
    assert sum(e.ci[1] > 1 for e in plain if e.ci) > 500
    assert all(e.ci is not None and 0 <= e.ci[0] <= e.value <= e.ci[1] <= 1 for e in cut)


def test_a_single_seed_is_cut_too_and_else_stays_itself() -> None:
    wide = Estimate(0.5, (-1.0, 3.0), 4, details={"k": 5})
    assert over_seeds([wide], UNIT) == Estimate(0.5, (0.0, 1.0), 4, details={"k": 5})
    inside = Estimate(0.5, (0.1, 0.7), 4)
    assert over_seeds([inside], UNIT) is inside
    assert over_seeds([Estimate.missing("gone")], UNIT).reason == "gone"


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_intervals_scale_with_their_values_however_small_or_large(scale: float) -> None:
    values = np.random.default_rng(9).normal(3.0, 1.0, size=12)
    one, many = mean_estimate(values), mean_estimate(scale * values)
    assert one.ci is not None
    assert many.ci == pytest.approx(tuple(scale * end for end in one.ci), rel=1e-12)
    assert jackknife_error(scale * values) == pytest.approx(scale * jackknife_error(values), rel=1e-12)
    seeds = [over_seeds([Estimate(float(s * v)) for v in values]) for s in (1.0, scale)]
    assert seeds[1].ci == pytest.approx(tuple(scale * end for end in seeds[0].ci), rel=1e-12)  # type: ignore[union-attr]


def test_a_sum_that_overflows_is_not_called_infinite_values() -> None:
    with pytest.raises(ValueError, match=r"sum of 4 values up to 1e\+308 overflows"):
        mean_estimate(np.full(4, 1e308))


def test_the_square_of_a_negative_estimate_lies_in_its_interval() -> None:
    # An unbiased estimate below minus its bias correction, which only rounding makes possible.
    ci = squared_interval(-0.5, np.array([-0.5, -0.4, -0.6]), offset=0.3)
    assert ci is not None
    assert ci[0] <= -0.5 <= ci[1]
