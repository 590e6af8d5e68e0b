"""From estimates to ranks: what is compared, what a rank means, and that nothing but raw values moves one."""

import dataclasses

import numpy as np
import pytest

from fmbench.records.metric import BUILT_IN
from fmbench.records.result import Estimate
from fmbench.report.standings import NETWORK, Standing, compare, incomplete, positive_distance, standing
from fmbench.statistics.comparisons import holm, network

W2, KD, RECALL = (BUILT_IN[name] for name in ("wasserstein2", "kernel_distance", "recall"))


def seeded(values, half=1.0):
    mean = float(np.mean(values))
    return Estimate(mean, (mean - half, mean + half), 5000, details={"per_seed": tuple(values)})


def stated(value, half):
    return Estimate(value, (value - half, value + half), 5000)


def intervals(estimates, info=W2):
    ranks = compare([standing(e) for e in estimates], info)
    return list(zip(ranks.lowest, ranks.highest, strict=True))


def noise(k, n=5, size=0.01, seed=0):
    return 1 + size * np.random.default_rng(seed).standard_normal((k, n))


def test_shared_noise_cancels_when_seeds_are_compared_one_by_one():
    luck = np.array([2.0, 5.0, 1.0, 3.0, 7.0])  # what the reference samples of a seed do to everybody
    jitter = np.array([1.001, 0.998, 1.0, 1.002, 0.999])
    better, worse, equal = luck, luck * 1.1 * jitter, luck * jitter
    assert intervals([seeded(better), seeded(worse)]) == [(1, 1), (2, 2)]
    assert intervals([seeded(better), seeded(worse)], RECALL) != [(1, 1), (2, 2)]
    assert intervals([seeded(better), seeded(equal)]) == [(1, 2), (1, 2)]
    unpaired = worse[::-1]  # other seeds, nothing cancels
    assert intervals([seeded(better), seeded(unpaired)]) == [(1, 2), (1, 2)]


def test_higher_is_better_where_the_metric_says_so():
    worse, better = 0.5 * noise(1)[0], 0.9 * noise(1, seed=1)[0]
    assert intervals([seeded(worse), seeded(better)], RECALL) == [(2, 2), (1, 1)]


def test_a_metric_without_a_better_side_ranks_nobody():
    with pytest.raises(ValueError, match="neither"):
        compare([standing(stated(1, 0.1))] * 2, BUILT_IN["density"])


def test_an_interval_says_how_many_are_better_and_worse_beyond_doubt():
    base = noise(6) * np.array([1.0, 1.0, 1.0, 1.5, 1.5, 3.0])[:, None]
    assert intervals([seeded(v) for v in base]) == [(1, 3), (1, 3), (1, 3), (4, 5), (4, 5), (6, 6)]


def test_laws_of_rank_intervals():
    random = np.random.default_rng(7)
    for _ in range(20):
        values = noise(8, seed=int(random.integers(1e6))) * (1 + 0.05 * random.random(8))[:, None]
        found = intervals([seeded(v) for v in values])
        assert min(low for low, _ in found) == 1 and max(high for _, high in found) == 8
        assert all(1 <= low <= high <= 8 for low, high in found)
        order = random.permutation(8)
        assert intervals([seeded(values[i]) for i in order]) == [found[i] for i in order]
        assert intervals([seeded(1000 * v) for v in values]) == found, "the unit of a distance ranks nobody"


def test_a_summary_that_was_edited_changes_no_rank():
    values = noise(4) * np.array([1.0, 1.2, 1.4, 1.6])[:, None]
    honest = [seeded(v) for v in values]
    edited = [*honest[:3], dataclasses.replace(honest[3], value=0.01, ci=(0.009, 0.011))]
    assert intervals(edited) == intervals(honest)
    assert standing(edited[3]).value == pytest.approx(float(values[3].mean()))


def groups(value, spread, seed=0):
    """An estimate of one seed with the values without each of 20 groups, as a jackknife of that standard error has them."""
    z = np.random.default_rng(seed).standard_normal(20)
    partial = value * np.exp(-spread * (z - z.mean()) / 19 * np.sqrt(20) / z.std(ddof=1))
    return Standing(value, (value * 0.5, value * 2), partial[None], groups=True), partial


def test_groups_of_rows_are_compared_by_centred_pseudo_values():
    (one, first), (other, second) = groups(1.0, 0.01), groups(1.05, 0.01, seed=1)
    ranks = compare([one, other], W2)
    y = np.stack([np.log(s.value) - 19 * (np.log(p) - np.log(p).mean()) for s, p in ((one, first), (other, second))])
    assert ranks.facts["df"] == 19
    assert ranks.lowest == [1, 1 + int(holm(network(y))[0])] == [1, 2]
    np.testing.assert_allclose(
        y.mean(1), np.log([1.0, 1.05]), atol=1e-12
    )  # the whole value, not one corrected for bias
    np.testing.assert_allclose(y.std(1, ddof=1) / np.sqrt(20), 0.01, rtol=1e-6)


def test_a_value_that_does_not_belong_to_its_groups_is_not_compared():
    honest, partial = groups(1.0, 0.01)
    assert incomplete(honest) is None
    assert "does not belong" in (incomplete(Standing(0.5, (0.4, 0.6), partial[None], groups=True)) or "")
    assert incomplete(standing(seeded([1.0, 2.0, 3.0]))) is None
    assert incomplete(standing(stated(1.0, 0.1))) is None


def test_replicates_of_an_estimate_are_its_groups():
    mine = standing(Estimate(1.0, (0.9, 1.1), 100, replicates=tuple(np.linspace(0.9, 1.1, 20))))
    assert mine.groups and mine.units is not None and mine.units.shape == (1, 20)


def test_without_raw_values_intervals_decide_and_nothing_is_taken_as_shared():
    assert intervals([stated(1.0, 0.1), stated(2.0, 0.1)]) == [(1, 1), (2, 2)]
    assert intervals([stated(1.0, 0.6), stated(1.3, 0.6)]) == [(1, 2), (1, 2)]
    assert compare([standing(stated(1.0, 0.1)), standing(stated(2.0, 0.1))], W2).facts["paired"] == 0


def test_an_entry_without_raw_values_leaves_the_pairs_of_the_others_as_they_are():
    luck = np.array([2.0, 5.0, 1.0, 3.0, 7.0])
    jitter = np.array([1.001, 0.998, 1.0, 1.002, 0.999])
    pair = [seeded(luck, 3.0), seeded(luck * 1.1 * jitter, 3.0)]
    assert intervals([*pair, stated(3.8, 3.0)]) == [(1, 2), (2, 3), (1, 3)]
    assert intervals([*pair, stated(90.0, 1.0)]) == [(1, 1), (2, 2), (3, 3)]


def test_values_that_reach_zero_have_no_logarithm():
    assert positive_distance(W2) and not positive_distance(KD) and not positive_distance(RECALL)
    around = [noise(1)[0] - 1, noise(1, seed=1)[0] - 1]
    assert compare([standing(seeded(v)) for v in around], KD).facts["scale"] == "raw"
    assert compare([standing(seeded(np.abs(v) + 1)) for v in around], W2).facts["scale"] == "log"
    assert compare([standing(seeded([0.0, 1.0, 2.0])), standing(seeded([1.0, 2.0, 4.0]))], W2).facts["scale"] == "raw"


def test_a_claim_is_about_a_network_until_there_are_three_trainings():
    def trained(times):
        return Standing(1.0, (0.9, 1.1), np.ones((times, 5)))

    assert [trained(t).claim for t in (1, 2, 3, 5)] == [
        NETWORK,
        NETWORK,
        "method, mean of 3 trainings",
        "method, mean of 5 trainings",
    ]


def test_methods_are_separated_by_their_trainings_not_by_their_seeds():
    random = np.random.default_rng(8)
    seeds = 1 + 0.001 * random.standard_normal((2, 3, 5))
    near = [Standing(1.0, (0.9, 1.1), seeds[i] * (1 + 0.2 * random.standard_normal((3, 1)))) for i in range(2)]
    assert compare(near, W2).highest == [2, 2]  # trainings differ by more than the methods do
    first = [Standing(s.value, s.interval, s.units[:1]) for s in near if s.units is not None]
    assert compare(first, W2).highest != [2, 2]  # two networks do differ
    far = [near[0], Standing(9.0, (8, 10), 9 * near[1].units)]
    assert compare(far, W2).lowest == [1, 2]
