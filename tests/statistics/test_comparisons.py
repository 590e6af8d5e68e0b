"""Laws of the ranking rule: known tests as special cases, what must cancel, and Holm's procedure as it is written down."""

import numpy as np
import pytest
from scipy import special, stats

from fmbench.statistics.comparisons import (
    ALPHA,
    PairTests,
    difference_variances,
    differences,
    holm,
    inverse_trigamma,
    lower_and_higher,
    method,
    moderated,
    network,
    trainings,
    unpaired,
)


def values(k=6, n=5, seed=0):
    return np.random.default_rng(seed).standard_normal((k, n))


def holm_as_published(p):
    """Sorted, each against alpha over the number of hypotheses left, up to the first that fails."""
    rejected = np.zeros(len(p), dtype=bool)
    for step, index in enumerate(np.argsort(p)):
        if p[index] > ALPHA / (len(p) - step):
            break
        rejected[index] = True
    return rejected


def test_two_entries_are_compared_by_the_paired_t_test():
    y = values(2, 7)
    found = network(y)
    expected = stats.ttest_rel(y[1], y[0])
    assert found.t[0] == pytest.approx(abs(expected.statistic))
    assert found.p_values()[0] == pytest.approx(expected.pvalue)


def test_what_a_unit_does_to_every_entry_cancels():
    y = values()
    moved = y + 100 * np.random.default_rng(1).standard_normal((1, y.shape[1]))
    np.testing.assert_allclose(network(moved).t, network(y).t, rtol=1e-9)


def test_the_unit_of_the_values_cancels():
    y = values()
    np.testing.assert_allclose(network(1e6 * y).p_values(), network(y).p_values(), rtol=1e-9)


def test_the_order_of_the_entries_does_not_matter():
    y = values(7)
    order = np.random.default_rng(2).permutation(7)
    i, j = np.triu_indices(7, 1)
    square = np.zeros((7, 7))
    square[i, j] = square[j, i] = network(y).t
    np.testing.assert_allclose(network(y[order]).t, square[order][:, order][i, j], rtol=1e-9)


def test_pairs_stand_in_the_order_of_triu_indices():
    y = values(5)
    i, j = np.triu_indices(5, 1)
    np.testing.assert_array_equal(differences(y[:, 0]), y[j, 0] - y[i, 0])
    np.testing.assert_allclose(difference_variances(y), (y[i] - y[j]).var(-1, ddof=1))


def test_repetitions_are_independent_of_each_other():
    y = np.stack([values(seed=s) for s in range(3)])
    for one, t, freedom in zip(y, network(y).t, network(y).freedom, strict=True):
        np.testing.assert_allclose(t, network(one).t)
        np.testing.assert_allclose(freedom, network(one).freedom)


def test_trigamma_is_inverted():
    y = np.geomspace(1e-5, 1e8, 300)
    np.testing.assert_allclose(inverse_trigamma(special.polygamma(1, y)), y, rtol=1e-6)


def test_equal_variances_are_pooled():
    shrunk, d0, s0 = moderated(np.full(10, 3.0), 4)
    assert np.isinf(d0).all()
    np.testing.assert_allclose(shrunk, 3.0)
    np.testing.assert_allclose(s0, 3.0)


@pytest.mark.parametrize("freedom", [2, 4, 19])
def test_the_prior_of_scaled_f_variances_is_found(freedom):
    # v = s0^2 F(d, d0) is what the model says; the fit must give d0 = 6 and s0^2 = 2 back.
    drawn = 2.0 * np.random.default_rng(3).f(freedom, 6, 200_000)
    _, d0, s0 = moderated(drawn, freedom)
    assert d0[0] == pytest.approx(6, rel=0.05)
    assert s0[0] == pytest.approx(2, rel=0.03)


def test_moderation_lies_between_own_and_common_variance():
    drawn = np.random.default_rng(4).f(4, 6, 50)
    shrunk, _, s0 = moderated(drawn, 4)
    assert (np.abs(shrunk - s0) <= np.abs(drawn - s0)).all()
    assert (np.argsort(shrunk) == np.argsort(drawn)).all()


def test_equal_entries_do_not_differ_and_constant_gaps_do():
    y = np.tile(values(1), (3, 1))
    y[2] += 1.0
    assert network(y).t[0] == 0  # no difference, no variance
    assert (network(y).t[1:] > 1e100).all()
    assert holm(network(y)).tolist() == [False, True, True]


def test_one_pair_without_spread_takes_nothing_from_the_others():
    y = np.concatenate([values(6), values(6)[:1]])  # a copy that was not merged
    assert np.isfinite(network(y).t).all()
    assert not holm(network(y))[differences(y.mean(-1)) == 0].any()


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_what_was_published(seed):
    random = np.random.default_rng(seed)
    t = np.abs(random.standard_normal(45)) * random.choice([1.0, 3.0, 8.0], 45)
    shared = PairTests(t, np.array([6.0]))
    apart = PairTests(t, np.full(45, 6.0))
    expected = holm_as_published(shared.p_values())
    assert holm(shared).tolist() == holm(apart).tolist() == expected.tolist()


def test_holm_rejects_all_or_nothing_where_it_must():
    far, near = np.full(10, 1e9), np.zeros(10)
    assert holm(PairTests(far, np.array([4.0]))).all()
    assert not holm(PairTests(near, np.array([4.0]))).any()
    assert holm(PairTests(np.empty(0), np.array([4.0]))).shape == (0,)


def test_two_methods_with_no_shared_noise_are_compared_by_welch_s_test_of_their_trainings():
    # Every seed says the same of a training: the evaluation adds nothing.
    a, b = np.array([1.0, 2.0, 3.0]), np.array([4.0, 9.0, 5.0, 6.0])
    found = method(trainings([np.repeat(v[:, None], 4, 1) for v in (a, b)]))
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert found.t[0] == pytest.approx(expected.statistic)
    assert found.p_values()[0] == pytest.approx(expected.pvalue)


def test_noise_that_the_trainings_of_an_entry_share_is_not_averaged_away():
    random = np.random.default_rng(5)
    between = [1e-6 * random.standard_normal((100, 1)) for _ in range(2)]
    shared = [random.standard_normal((1, 6)) for _ in range(2)]
    found = method(trainings([b + s for b, s in zip(between, shared, strict=True)]))
    paired = stats.ttest_rel(shared[1][0], shared[0][0])
    assert found.t[0] == pytest.approx(abs(paired.statistic), rel=1e-3)
    assert found.p_values()[0] == pytest.approx(paired.pvalue, rel=1e-2)


def test_intervals_alone_are_compared_by_the_sides_that_face_each_other():
    value, low, high = np.array([1.0, 3.0]), np.array([0.0, 2.5]), np.array([1.2, 9.0])
    found = unpaired(value, low, high, np.array([19.0, 19.0]))
    sides = np.hypot(1.2 - 1.0, 3.0 - 2.5) / stats.t.ppf(0.975, 19)
    assert found.t[0] == pytest.approx(2.0 / sides)
    mirrored = unpaired(-value, -high, -low, np.array([19.0, 19.0]))
    assert mirrored.t[0] == pytest.approx(found.t[0])


def test_intervals_that_do_not_overlap_are_a_difference_of_two_entries():
    found = unpaired(np.array([0.0, 2.1]), np.array([-1.0, 1.1]), np.array([1.0, 3.1]), np.array([19.0, 19.0]))
    assert holm(found).all()
    touching = unpaired(np.array([0.0, 1.3]), np.array([-1.0, 0.3]), np.array([1.0, 2.3]), np.array([19.0, 19.0]))
    assert not holm(touching).any()


def test_who_is_lower_and_higher():
    mean = np.array([3.0, 1.0, 2.0])
    different = np.array([True, False, True])  # (0, 1), (0, 2), (1, 2)
    lower, higher = lower_and_higher(mean, different)
    assert lower.tolist() == [1, 0, 1]
    assert higher.tolist() == [0, 2, 0]
