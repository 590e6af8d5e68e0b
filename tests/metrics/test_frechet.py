"""Laws of the Frechet distance: closed forms, invariances, and its interval (parity: tests/parity)."""

from __future__ import annotations

import numpy as np
import pytest

from fmbench.metrics.evidence import Evidence, of_samples
from fmbench.metrics.frechet import between, covariance_factor, fid_infinity, frechet_distance, measure
from fmbench.metrics.reference import Lacking
from fmbench.statistics.intervals import deletions, squared_interval
from fmbench.statistics.moments import Moments

DIMS = (2, 16, 64, 512)


def rotation(d: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def covariance(d: int, rng: np.random.Generator, rank: int | None = None) -> np.ndarray:
    factor = rng.normal(size=(d, d if rank is None else rank))
    return factor @ factor.T / d


def context(features: np.ndarray, reference: np.ndarray) -> Evidence:
    return of_samples(features, reference, features=lambda x: x, extractor={"name": "id"}, sha256="hash")


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("zeros", [0, 1])
def test_commuting_covariances(d: int, zeros: int) -> None:
    # A common eigenbasis reduces the distance to d scalar ones: sum (sqrt a - sqrt b)^2.
    rng = np.random.default_rng(d)
    basis = rotation(d, rng)
    a, b = rng.uniform(0.1, 4, d), rng.uniform(0.1, 4, d)
    a[: zeros * d // 2] = 0
    b[d - zeros * d // 4 :] = 0
    mu = rng.normal(size=d)
    expected = (mu**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    got = frechet_distance(mu, (basis * a) @ basis.T, np.zeros(d), (basis * b) @ basis.T)
    # The square root turns round-off of size eps in a zero eigenvalue into sqrt(eps).
    assert got == pytest.approx(expected, rel=1e-11 if not zeros else 1e-6)


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("rank", [None, 1, "half"])
def test_pushed_forward_by_a_linear_optimal_map(d: int, rank: int | str | None) -> None:
    # For positive definite T, x -> T x is the optimal map from N(0, C) to N(0, T C T), at cost tr (T - 1) C (T - 1).
    rng = np.random.default_rng(d + 1)
    first = covariance(d, rng, d // 2 if rank == "half" else rank)
    transport = covariance(d, rng) + np.eye(d)
    second = transport @ first @ transport
    second = (second + second.T) / 2
    move = transport - np.eye(d)
    assert not np.allclose(first @ second, second @ first)
    got = frechet_distance(np.zeros(d), first, np.zeros(d), second)
    assert got == pytest.approx(np.trace(move @ first @ move), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 9, 64), (40, 300, 512), (300, 40, 512), (3, 2, 16)])
def test_fewer_samples_than_dimensions(n: int, m: int, d: int) -> None:
    # With centred data X, Y the cross term is the nuclear norm of X Y^T: no square root of a singular matrix.
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 1.2 + 0.1
    cx, cy = (x - x.mean(0)) / np.sqrt(n - 1), (y - y.mean(0)) / np.sqrt(m - 1)
    nuclear = np.linalg.svd(cx @ cy.T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (cx**2).sum() + (cy**2).sum() - 2 * nuclear
    assert between(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-10)


def test_rank_one_and_point_masses() -> None:
    u, v, zero = np.array([1.0, 2, 0]), np.array([3.0, -1, 1]), np.zeros(3)
    expected = u @ u + v @ v - 2 * abs(u @ v)
    assert frechet_distance(zero, np.outer(u, u), zero, np.outer(v, v)) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(u, np.zeros((3, 3)), v, np.zeros((3, 3))) == pytest.approx(((u - v) ** 2).sum())
    assert frechet_distance(u, np.zeros((3, 3)), u, np.eye(3)) == pytest.approx(3)


def test_symmetric_zero_on_itself_and_invariant() -> None:
    rng = np.random.default_rng(5)
    d = 24
    first, second, mu, nu = covariance(d, rng), covariance(d, rng, 7), rng.normal(size=d), rng.normal(size=d)
    value = frechet_distance(mu, first, nu, second)
    assert frechet_distance(nu, second, mu, first) == pytest.approx(value, rel=1e-12)
    assert frechet_distance(mu, first, mu, first) == pytest.approx(0, abs=1e-11)
    assert frechet_distance(mu, second, mu, second) == pytest.approx(0, abs=1e-11)
    turn = rotation(d, rng)
    turned = [turn @ c @ turn.T for c in (first, second)]
    turned = [(c + c.T) / 2 for c in turned]
    assert frechet_distance(turn @ mu + 3, turned[0], turn @ nu + 3, turned[1]) == pytest.approx(value, rel=1e-6)
    assert frechet_distance(5 * mu, 25 * first, 5 * nu, 25 * second) == pytest.approx(25 * value, rel=1e-12)


@pytest.mark.parametrize(("rank", "d"), [(0, 4), (1, 4), (3, 4), (4, 4), (20, 100)])
def test_factor_reveals_the_rank(rank: int, d: int) -> None:
    cov = covariance(d, np.random.default_rng(rank), rank)
    factor = covariance_factor(cov)
    assert factor.shape == (d, rank)
    np.testing.assert_allclose(factor @ factor.T, cov, atol=1e-12)


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        (np.array([[1.0, 0.5], [0.4, 1.0]]), "cov1 must be symmetric"),
        (np.diag([1.0, -0.01]), "cov1 must be positive semi-definite"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "cov1 must be positive semi-definite"),
        (-np.eye(2), "cov1 must be positive semi-definite"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "cov1 has 2 NaN or infinite"),
        (np.eye(3), "got shapes"),
    ],
)
def test_refuses_what_is_no_covariance(cov: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        frechet_distance(np.zeros(2), cov, np.zeros(2), np.eye(2))
    assert "\n" not in str(error.value)
    if cov.shape == (2, 2):
        with pytest.raises(ValueError, match=message.replace("cov1", "cov2")):
            frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), cov)


def test_extrapolation_removes_the_bias() -> None:
    d, n = 8, 1500
    exact = Moments(1000, np.zeros(d), 999 * np.eye(d))
    plain, extrapolated = [], []
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(n, d)) + 0.3
        plain.append(between(Moments.of(x), exact))
        extrapolated.append(fid_infinity(x, exact, seed=seed, smallest=150))
    truth = d * 0.09
    # To first order the bias of a Gaussian fit is (d + d (d + 1) / 4) / n, here 26 / 1500.
    bias = (d + d * (d + 1) / 4) / n
    error = np.std(plain, ddof=1) / np.sqrt(12)
    assert np.mean(plain) - truth == pytest.approx(bias, abs=3 * error)
    assert abs(np.mean(extrapolated) - truth) < 4 * np.std(extrapolated, ddof=1) / np.sqrt(12)
    # Paired on the same samples, most of the bias is gone.
    assert np.mean(plain) - np.mean(extrapolated) > 0.5 * bias


def test_extrapolation_is_seeded_and_checked() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    reference = Moments.of(np.random.default_rng(1).normal(size=(300, 3)))
    assert fid_infinity(x, reference, seed=4) == fid_infinity(x, reference, seed=4)
    assert fid_infinity(x, reference, seed=4) != fid_infinity(x, reference, seed=5)
    with pytest.raises(ValueError, match="points must be at least 2"):
        fid_infinity(x, reference, points=1)
    with pytest.raises(ValueError, match="less than the 200 samples given, got 200"):
        fid_infinity(x, reference, smallest=200)


@pytest.mark.slow
@pytest.mark.parametrize("d", [6, 300])
def test_measure_is_the_brute_force_jackknife(d: int) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(203, d)) + 0.5, rng.normal(size=(150, d))
    got = measure(context(x, y))
    reference = Moments.of(y)
    value = between(Moments.of(x), reference)
    partial = np.array([between(Moments.of(x[kept]), reference) for kept, _ in deletions(len(x))])
    assert got.value == pytest.approx(value, rel=1e-10)
    assert got.ci == pytest.approx(squared_interval(value, partial), rel=1e-8)
    assert got.n == 203
    assert got.details == {"extractor": {"name": "id"}, "reference_sha256": "hash", "reference_n": 150}


def test_measure_survives_a_large_common_offset() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(100, 4)) + 0.5, rng.normal(size=(90, 4))
    near, far = measure(context(x, y)).value, measure(context(x + 1e6, y + 1e6)).value
    assert near is not None
    assert far == pytest.approx(near, rel=1e-7)


def test_interval_has_the_width_of_the_sampling_spread() -> None:
    y = np.random.default_rng(0).normal(size=(2000, 4))
    estimates = [measure(context(np.random.default_rng(s).normal(size=(400, 4)) + 0.4, y)) for s in range(1, 61)]
    spread = np.std([e.value for e in estimates], ddof=1)
    errors = [(e.ci[1] - e.ci[0]) / 2 / 1.96 for e in estimates if e.ci is not None]
    assert len(errors) == 60
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)


def test_measure_without_features_gives_the_reason() -> None:
    x = np.zeros((4, 2))
    with pytest.raises(Lacking, match="neither the task nor the call names a feature extractor"):
        measure(of_samples(x, x))


def test_collapsed_samples_have_no_covariance_and_a_closed_form_distance():
    """All samples equal, as a one-step sampler gives: round-off must not pass for a covariance."""
    rng = np.random.default_rng(3)
    point, real = rng.normal(size=16), rng.normal(size=(500, 16))
    collapsed = Moments.of(np.tile(point, (10_000, 1)))
    reference = Moments.of(real)
    assert not collapsed.cov.any()
    expected = np.sum((point - real.mean(0)) ** 2) + np.trace(np.cov(real.T))
    assert between(collapsed + Moments.of(np.tile(point, (500, 1))), reference) == pytest.approx(expected, rel=1e-9)


def test_extrapolation_of_features_of_another_width_is_refused():
    features = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="features have 3 dimensions and the reference 2"):
        fid_infinity(features, Moments.of(features[:, :2]))


def nuclear(x: np.ndarray, y: np.ndarray) -> float:
    """The distance by singular values of the centred samples, without any covariance."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    cx, cy = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    cross = np.linalg.svd(cx @ cy.T, compute_uv=False).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + (cx**2).sum() + (cy**2).sum() - 2 * cross)


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("n", [5, 40])
def test_a_collapsed_model_is_far_and_not_without_a_number(n: int, noise: float) -> None:
    rng = np.random.default_rng(n)
    real = np.maximum(rng.normal(size=(300, 32)) @ rng.normal(size=(32, 32)), 0).astype(np.float32)
    x = (real[:1] + noise * rng.normal(size=(n, 32))).astype(np.float32)
    got = measure(context(x, real))
    assert got.value == pytest.approx(nuclear(x, real), rel=1e-6)
    if got.ci is not None:
        assert got.ci[0] <= got.value <= got.ci[1] < got.value * 1.2


@pytest.mark.parametrize("offset", [1e4, 1e8])
def test_a_far_cloud_has_its_own_spread(offset: float) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(30, 6)), 2 * rng.normal(size=(50, 6))
    both = measure(context(x + offset, y + offset)).value
    assert both == pytest.approx(nuclear(x, y), rel=1e-15 * offset * 100 + 1e-9)
    assert measure(context(x + offset, y)).value == pytest.approx(6 * offset**2, rel=10 / offset)
    # A collapsed cloud extrapolates to itself: there is no bias to remove.
    assert fid_infinity(np.tile(x[:1], (20, 1)) + offset, Moments.of(y)) == pytest.approx(
        between(Moments.of(np.tile(x[:1], (2, 1)) + offset), Moments.of(y)), rel=1e-9
    )


@pytest.mark.parametrize("scale", [1e-140, 1e-60, 1e60, 1e140])
def test_it_scales_with_the_square_of_the_unit(scale: float) -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(40, 3)), 2 * rng.normal(size=(50, 3)) + 1
    ordinary, scaled = measure(context(x, y)), measure(context(scale * x, scale * y))
    assert ordinary.value is not None and ordinary.ci is not None
    assert scaled.value == pytest.approx(scale**2 * ordinary.value, rel=1e-9)
    assert scaled.ci == pytest.approx(tuple(scale**2 * end for end in ordinary.ci), rel=1e-9)


def test_features_of_other_widths_are_refused_in_words() -> None:
    x = np.random.default_rng(0).normal(size=(9, 3))
    with pytest.raises(ValueError, match="generated samples have 3 features and real ones 2; use one extractor"):
        measure(context(x, x[:, :2]))
