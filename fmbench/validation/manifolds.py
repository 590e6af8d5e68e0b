"""Cases of the metrics built on neighbourhoods and modes: precision, recall, density, coverage, modes, memorisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from fmbench.metrics.memorisation import ct_score, exact_copies, near_copies
from fmbench.metrics.modes import modes
from fmbench.tasks.mixture import GaussianMixture
from fmbench.validation.check import Check, exact, sampled
from fmbench.validation.gaussians import DIMENSIONS
from fmbench.validation.registered import on_samples

K = 5
REPEATS = 40
FAR = 300.0
"""Distance of clusters that must not be neighbours; much larger ones would lose neighbour distances in rounding."""


def _sets(name: str) -> Iterator[Check]:
    """Identical, disjoint and half-shared sets; the same answer for all four quantities, exact for open balls."""
    for d in DIMENSIONS:
        rng = np.random.default_rng(d)
        a, b, c = (rng.standard_normal((120, d)) + FAR * shift * np.eye(d)[0] for shift in range(3))
        half = np.concatenate([a, b])
        yield exact(name, f"identical sets, d = {d}", 1.0, on_samples(name, a, a), "every ball has its own centre")
        yield exact(name, f"disjoint sets, d = {d}", 0.0, on_samples(name, a, c), "no ball reaches the other set")
        got = on_samples(name, half, np.concatenate([a, c]))
        yield exact(name, f"half shared, d = {d}", 0.5, got, "one of two far clusters is in both sets")


def _fresh(name: str, truth: float, n: int, note: str) -> Iterator[Check]:
    for d in DIMENSIONS[:3]:
        values = []
        for seed in range(REPEATS):
            x, y = np.random.default_rng([seed, d]).standard_normal((2, n, d))
            values.append(on_samples(name, x, y))
        yield sampled(name, f"fresh draws, n = {n}, d = {d}", truth, values, note)


def _density() -> Iterator[Check]:
    yield from _sets("density")
    yield from _fresh("density", 1.0, 100, "free of the distribution: P(in a ball) = k/m")


def _coverage() -> Iterator[Check]:
    yield from _sets("coverage")
    n = 100
    missed = math.prod((n - 1 - i) / (2 * n - 1 - i) for i in range(K))
    yield from _fresh("coverage", 1 - missed, n, "free of the distribution: the k nearest are not all real")


def _corners(side: float) -> np.ndarray:
    return side * np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def _square(rng: np.random.Generator, n: int, weights: np.ndarray, side: float) -> np.ndarray:
    """``n`` points of a mixture of four unit Gaussians on the corners of a square."""
    return _corners(side)[rng.choice(4, n, p=weights)] + rng.standard_normal((n, 2))


def _on_square(name: str, x: np.ndarray, weights: np.ndarray, side: float) -> float:
    target = GaussianMixture(torch.from_numpy(_corners(side)), 1.0, torch.from_numpy(weights))
    return on_samples(name, x, x, mixture=target)


def _mode_coverage() -> Iterator[Check]:
    name, side, even = "mode_coverage", 40.0, np.full(4, 0.25)
    for kept, weights in ((4, even), (3, np.array([0.4, 0.3, 0.3, 0.0])), (1, np.array([1.0, 0.0, 0.0, 0.0]))):
        got = _on_square(name, _square(np.random.default_rng(kept), 2000, weights, side), even, side)
        yield exact(name, f"{kept} of 4 modes sampled", kept / 4, got, "modes 40 stds apart")
    x = _square(np.random.default_rng(9), 20_000, even, side)
    inside = ((((x[:, None] - _corners(side)) ** 2).sum(axis=-1).min(axis=1)) <= -2 * math.log(0.01)).astype(float)
    got = modes(x, _corners(side), 1.0).high_quality
    yield exact(name, "samples inside 99 % ellipses", float(inside.mean()), got, "radius^2 = -2 ln 0.01 in 2-D")
    yield sampled(name, "share inside 99 % ellipses", 0.99, inside, "content of the ellipse")


def _mode_weights_error() -> Iterator[Check]:
    name, true = "mode_weights_error", np.array([0.1, 0.2, 0.3, 0.4])
    x = np.repeat(_corners(40.0), [500, 0, 300, 200], axis=0) + np.random.default_rng(0).standard_normal((1000, 2))
    got = _on_square(name, x, true, side=40.0)
    yield exact(name, "shares .5, 0, .3, .2 for .1, .2, .3, .4", 0.4, got, "total variation")
    draws = [_square(np.random.default_rng(seed), 500, true, side=1.5) for seed in range(REPEATS)]
    values = [modes(x, _corners(1.5), 1.0, true).weights[3] for x in draws]
    yield sampled(name, "observed weight of an overlapping mode", 0.4, values, "mean posterior is unbiased")


def _authenticity() -> Iterator[Check]:
    name = "authenticity"
    for d in DIMENSIONS:
        train = np.random.default_rng(d).standard_normal((200, d))
        yield exact(name, f"copies, d = {d}", 0.0, on_samples(name, train[:100], train), "copies are not authentic")
        far = on_samples(name, train + FAR, train)
        yield exact(name, f"far away, d = {d}", 1.0, far, "nothing is near")
    values = []
    for seed in range(REPEATS):
        angle = np.random.default_rng(seed).uniform(0, 2 * math.pi, (2, 300))
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        values.append(on_samples(name, circle[0], circle[1]))
    yield sampled(name, "fresh draws on a circle", 1 / 3, values, "exchangeable gaps: nearest neighbours mutual in 2/3")


def _ct_score() -> Iterator[Check]:
    name, n, m = "ct_score", 200, 150
    rng = np.random.default_rng(0)
    train, heldout = rng.standard_normal((n, 16)), rng.standard_normal((m, 16))
    lowest = -math.sqrt(3 * n * m / (n + m + 1))
    note = "every distance below every held-out one: the smallest z there is"
    yield exact(name, "copies of the training set, one cell", lowest, ct_score(train, train, heldout, cells=1), note)
    far = ct_score(heldout + 50, train, heldout[:100], cells=1)
    yield exact(name, "far away, one cell", math.sqrt(3 * m * 100 / (m + 101)), far, "the largest z there is")
    values = []
    for seed in range(REPEATS // 2):
        rng = np.random.default_rng(seed)
        x, train, heldout = (rng.standard_normal((size, 16)) for size in (n, n, m))
        values.append(on_samples(name, x, train, heldout=heldout))
    yield sampled(name, "fresh draws, three cells", 0.0, values, "symmetric under the null")


def _exact_copies() -> Iterator[Check]:
    rng = np.random.default_rng(0)
    train = rng.standard_normal((100, 16))
    mixed = np.concatenate([train[:30], rng.standard_normal((90, 16))])
    yield exact("exact_copies", "30 copies in 120", 0.25, exact_copies(mixed, train), "by construction")
    yield exact("exact_copies", "copies off by 1e-9", 0.0, exact_copies(train + 1e-9, train), "not bit for bit")


def _near_copies() -> Iterator[Check]:
    train = np.arange(50.0)[:, None]
    rng = np.random.default_rng(0)
    offset = rng.uniform(0, 0.5, 4000)
    generated = (rng.integers(1, 48, 4000) + offset)[:, None]
    within = on_samples("near_copies", generated, train, heldout=train)
    note = "d1 < d2 / 3 is an offset below 1/4"
    yield exact("near_copies", "offsets from a lattice", float((offset < 0.25).mean()), within, note)
    yield sampled("near_copies", "uniform offsets", 0.5, [near_copies(g, train) for g in np.split(generated, 20)], note)
    ratio = near_copies(generated, train, ratio=1 / 4)
    yield exact("near_copies", "ratio 1/4", float((offset < 0.2).mean()), ratio, "an offset below 1/5")


CASES: dict[str, Callable[[], Iterator[Check]]] = {
    "precision": partial(_sets, "precision"),
    "recall": partial(_sets, "recall"),
    "density": _density,
    "coverage": _coverage,
    "mode_coverage": _mode_coverage,
    "mode_weights_error": _mode_weights_error,
    "authenticity": _authenticity,
    "ct_score": _ct_score,
    "exact_copies": _exact_copies,
    "near_copies": _near_copies,
}
