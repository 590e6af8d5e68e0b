"""Cases of the metrics that compare two distributions through moments, kernels or a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fmbench.metrics import c2st as c2st_metric
from fmbench.metrics.frechet import frechet_distance
from fmbench.metrics.inception_score import inception_score
from fmbench.metrics.kernel import kernel_distance
from fmbench.metrics.mmd import gaussian_mmd_squared
from fmbench.validation.check import Check, exact, sampled
from fmbench.validation.gaussians import (
    DIMENSIONS,
    GaussianPair,
    cubic_kernel_mean,
    gaussian_kernel_mean,
    gaussian_pair,
    whitened,
)
from fmbench.validation.registered import on_samples

MAP = "Gaussian pair given by its optimal map, covariances that do not commute"
REPEATS = 12
SIZE = 200


def _frechet() -> Iterator[Check]:
    name = "frechet_distance"
    for d in DIMENSIONS:
        pair = gaussian_pair(d)
        got = frechet_distance(pair.mean_a, pair.cov_a, pair.mean_b, pair.cov_b)
        yield exact(name, f"population moments, d = {d}", pair.w2_squared, got, MAP, absolute=1e-8)
    for d in DIMENSIONS[:3]:
        pair, rng = gaussian_pair(d), np.random.default_rng(d)
        x, y = pair.first(whitened(160, d, rng, ddof=1)), pair.second(whitened(200, d, rng, ddof=1))
        note = "samples with exact sample moments: no plug-in bias"
        yield exact(name, f"moment-matched samples, d = {d}", pair.w2_squared, on_samples(name, y, x), note, 1e-7)
    rank = np.zeros((64, 64))
    rank[:20, :20] = 4 * np.eye(20)
    got = frechet_distance(np.zeros(64), np.eye(64), np.zeros(64), rank)
    yield exact(name, "covariance of rank 20, d = 64", 64.0, got, "20 axes (2 - 1)^2, 44 axes 1", absolute=1e-8)
    # Against N(0, 1) in one dimension the plug-in is mean^2 + (std - 1)^2; E std = c4(n) is known.
    n, rng, reference = 10, np.random.default_rng(4), whitened(50, 1, np.random.default_rng(5), ddof=1)
    c4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
    values = [on_samples(name, rng.standard_normal((n, 1)), reference) for _ in range(2000)]
    yield sampled(name, f"bias at n = {n}, d = 1", 1 / n + 2 * (1 - c4), values, "1/n + 2 (1 - c4(n)), exact")


def _frechet_at_heldout() -> Iterator[Check]:
    name, d, n = "frechet_distance_at_heldout", 4, 200
    reference = whitened(100, d, np.random.default_rng(3), ddof=1)
    draws = [np.random.default_rng([seed, 7]).standard_normal((2000, d)) for seed in range(REPEATS)]
    values = [on_samples(name, z, reference, heldout=np.zeros((n, d))) for z in draws]
    whole = [on_samples("frechet_distance", z[:n], reference) for z in draws]
    yield exact(
        name, "first n of 2,000 samples", sum(whole), sum(values), "Frechet distance of these samples alone", 1e-9
    )


def _frechet_infinity() -> Iterator[Check]:
    name = "frechet_distance_infinity"
    for d in DIMENSIONS[:2]:
        pair = gaussian_pair(d)
        reference = pair.first(whitened(100, d, np.random.default_rng(d), ddof=1))
        draws = (np.random.default_rng([seed, d]).standard_normal((4000, d)) for seed in range(REPEATS))
        values = [on_samples(name, pair.second(z), reference) for z in draws]
        note = "reference with exact moments; the 1/n bias is extrapolated away, (d/n)^2 is left"
        yield sampled(name, f"Gaussian pair, d = {d}", pair.w2_squared, values, note)
    reference = whitened(50, 16, np.random.default_rng(1), ddof=1)
    got = on_samples(name, np.full((400, 16), 3.0), reference)
    yield exact(name, "constant features, d = 16", 9.0 * 16 + 16, got, "|mean|^2 + tr I, nothing to extrapolate", 1e-8)


def _kernel_pairs(
    name: str,
    mean_of: Callable[..., float],
    measured: Callable[[np.ndarray, np.ndarray, GaussianPair], float],
    note: str,
) -> Iterator[Check]:
    for d in DIMENSIONS:
        pair, repeats, n = gaussian_pair(d), 24, 400
        first, second = (pair.mean_a, pair.cov_a), (pair.mean_b, pair.cov_b)
        truth = mean_of(*first, *first) + mean_of(*second, *second) - 2 * mean_of(*first, *second)
        values = []
        for seed in range(repeats):
            rng = np.random.default_rng([seed, d])
            x, y = pair.second(rng.standard_normal((n, d))), pair.first(rng.standard_normal((n, d)))
            values.append(measured(x, y, pair))
        yield sampled(name, f"Gaussian pair, d = {d}", truth, values, note)


def _kernel_distance() -> Iterator[Check]:
    name = "kernel_distance"
    yield from _kernel_pairs(
        name, cubic_kernel_mean, lambda x, y, pair: kernel_distance(x, y), "moment tensors up to order 3, exact"
    )
    for d in DIMENSIONS:
        x, y = np.full((7, d), 2.0), np.full((5, d), -1.0)
        got = on_samples(name, x, y)
        yield exact(name, f"two point masses, d = {d}", 135.0, got, "k(a, a) + k(b, b) - 2 k(a, b) = 125 + 8 + 2")
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [0.0]])
    note = "(1*2+1)^3 + 1 - 2: every pair once, none with itself"
    yield exact(name, "two points each, d = 1", 26.0, on_samples(name, x, y), note)


def _mmd() -> Iterator[Check]:
    name, note = "mmd", "Gaussian integral; bandwidth sqrt(d)"
    yield from _kernel_pairs(
        name,
        lambda *g: gaussian_kernel_mean(*g, h=math.sqrt(len(g[0]))),
        lambda x, y, pair: gaussian_mmd_squared(x, y, math.sqrt(pair.dim)),
        note,
    )
    for d in DIMENSIONS:
        # Two reference points +-c: their distance is the median bandwidth h, so their kernel is exp(-1/2).
        pair, centre = gaussian_pair(d), np.zeros((1, d))
        centre[0, 0] = math.sqrt(d)
        h = 2 * math.sqrt(d)
        first, point = (pair.mean_a, pair.cov_a), np.zeros((d, d))
        across = sum(gaussian_kernel_mean(*first, sign * centre[0], point, h) for sign in (1, -1))
        truth = gaussian_kernel_mean(*first, *first, h) + math.exp(-0.5) - across
        draws = (np.random.default_rng([seed, d]).standard_normal((SIZE, d)) for seed in range(REPEATS))
        values = [on_samples(name, pair.first(z), np.concatenate([centre, -centre])) for z in draws]
        yield sampled(name, f"two-point reference, d = {d}", truth, values, "median bandwidth known: 2 sqrt(d)")


def _inception_score() -> Iterator[Check]:
    name, classes = "inception_score", 10
    score = lambda logits: on_samples(name, logits, logits, logits=logits)  # noqa: E731
    sure = 100.0 * np.tile(np.eye(classes), (20, 1))
    yield exact(name, "certain and balanced, 10 classes", classes, score(sure), "number of classes")
    yield exact(name, "uniform posteriors", 1.0, score(np.full((50, classes), 3.0)), "no information")
    p = 0.8
    logits = np.log(np.array([[p, 1 - p], [1 - p, p]] * 30))
    truth = 2 * p**p * (1 - p) ** (1 - p)
    yield exact(name, "binary symmetric channel, p = 0.8", truth, score(logits), "2 exp(-H(p))")
    yield exact(name, "same, 10 splits", truth, inception_score(np.repeat(logits, 2, axis=0), 10), "equal parts")


def _bayes_classifier() -> Any:
    """A scikit-learn classifier that predicts ``x_1 > 0`` without learning; its accuracy between two Gaussians is known."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class HalfSpace(ClassifierMixin, BaseEstimator):
        def fit(self, x: np.ndarray, y: np.ndarray) -> HalfSpace:
            self.classes_ = np.unique(y)
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return (x[:, 0] > 0).astype(int)

    return HalfSpace()


def _c2st() -> Iterator[Check]:
    name = "c2st"
    values = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        values.append(on_samples(name, rng.standard_normal((100, 2)), rng.standard_normal((100, 2)), seed=seed))
    yield sampled(name, "same Gaussian, d = 2", 0.5, values, "nothing to tell apart")
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((80, 2)), rng.standard_normal((80, 2)) + 40
    yield exact(name, "disjoint, d = 2", 1.0, on_samples(name, x, y), "always told apart")
    x, y = rng.standard_normal((4000, 2)), rng.standard_normal((4000, 2))
    x[:, 0] -= 0.5
    y[:, 0] += 0.5
    correct = c2st_metric.held_out_correct(x, y, classifier=lambda dim, seed: _bayes_classifier())
    truth = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    yield sampled(
        name, "Gaussians one std apart, Bayes classifier", truth, correct, "normal distribution function at 1/2"
    )


CASES: dict[str, Callable[[], Iterator[Check]]] = {
    "frechet_distance": _frechet,
    "frechet_distance_at_heldout": _frechet_at_heldout,
    "frechet_distance_infinity": _frechet_infinity,
    "kernel_distance": _kernel_distance,
    "mmd": _mmd,
    "inception_score": _inception_score,
    "c2st": _c2st,
}
