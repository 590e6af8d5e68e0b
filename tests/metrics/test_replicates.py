"""Raw values behind intervals: group ``g`` leaves out rows ``g, g + 20, ...`` and no other, for every metric alike."""

import numpy as np
import pytest

from fmbench.metrics.evidence import of_samples
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import (
    GROUPS,
    deletions,
    jackknife_error,
    jackknife_estimate,
    mean_estimate,
    over_seeds,
    proportion_estimate,
)
from fmbench.transport.exact import wasserstein2

N = 200
FEATURE = ["frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "inception_score"]
PLAIN = ["wasserstein2", "sliced_wasserstein2", "mmd"]


def evidence(name, samples, fresh=False):
    real = np.random.default_rng(7).normal(size=(N, 3)) + 0.8
    if name in PLAIN:
        return of_samples(samples, real, fresh_reference=fresh)
    projection = np.linspace(-1, 1, 12).reshape(3, 4)

    def extract(x):
        return np.tanh(x @ projection)

    return of_samples(samples, real, features=extract, fresh_reference=fresh, logits=3 * extract(samples))


def measured(name, samples, fresh=False):
    return METRICS[name].resolve()(evidence(name, samples, fresh))


@pytest.mark.parametrize("name", [*FEATURE, "sliced_wasserstein2", "mmd"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_group_is_blind_to_its_rows(name, fresh):
    samples = np.random.default_rng(1).normal(size=(N, 3))
    before = measured(name, samples, fresh)
    assert len(before.replicates) == GROUPS
    group = 13
    moved = samples.copy()
    moved[group::GROUPS] += np.random.default_rng(2).normal(size=(N // GROUPS, 3))
    after = measured(name, moved, fresh)
    same = np.isclose(before.replicates, after.replicates, rtol=1e-9, atol=1e-12)
    assert same[group]
    assert same.sum() < GROUPS


def test_bounds_from_one_plan_stand_for_the_solves_without_each_group():
    samples = np.random.default_rng(1).normal(size=(N, 3))
    found = evidence("wasserstein2", samples)
    solved = [wasserstein2(samples[kept], found.reference) for kept, _ in deletions(N)]
    bounds = measured("wasserstein2", samples).replicates
    # Of unlike sizes the bias differs, which is the same for all groups.
    assert np.corrcoef(bounds, solved)[0, 1] > 0.98
    assert jackknife_error(np.array(bounds)) == pytest.approx(jackknife_error(np.array(solved)), rel=0.1)


@pytest.mark.parametrize("name", [*FEATURE, *PLAIN])
def test_the_values_lie_about_the_whole_one(name):
    samples = np.random.default_rng(3).normal(size=(N, 3))
    found = measured(name, samples)
    low, high = found.ci
    assert low - 0.5 * (high - low) < np.mean(found.replicates) < high + 0.5 * (high - low)
    assert np.ptp(found.replicates) > 0


def test_means_and_statistics_leave_the_same_rows_out():
    values = np.random.default_rng(4).normal(size=101)
    one = mean_estimate(values).replicates
    other = jackknife_estimate(lambda kept: float(values[kept].mean()), len(values)).replicates
    assert one == pytest.approx(other, rel=1e-12)
    hits = (values > 0).astype(float)
    assert proportion_estimate(hits).replicates == pytest.approx(mean_estimate(hits).replicates)
    assert one[7] == pytest.approx(np.delete(values, np.arange(7, 101, 20)).mean())


def test_few_rows_have_fewer_groups_and_three_have_none():
    assert len(mean_estimate(np.arange(10.0)).replicates) == 5
    assert mean_estimate(np.arange(3.0)).replicates == ()
    assert mean_estimate(1.5e308 * np.array([1.0, -1.0, 1.0, -1.0])).replicates == ()


def test_with_seeds_the_values_of_the_seeds_take_their_place():
    seeds = [Estimate(v, None, 5, replicates=(v, v + 1)) for v in (1.0, 2.0, 4.0)]
    assert over_seeds(seeds).replicates == (1.0, 2.0, 4.0)
    assert over_seeds(seeds[:1]).replicates == (1.0, 2.0)
    assert over_seeds([*seeds, Estimate.missing("no")]).replicates == ()
