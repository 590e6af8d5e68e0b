"""Every sample metric on samples as they should not be: a number inside its own interval and range, or one line that says what is wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fmbench.evaluation.scoring import attempt
from fmbench.metrics.evidence import Evidence, of_samples
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate
from fmbench.tasks.mixture import GaussianMixture

NAMES = [name for name, info in METRICS.items() if info.scope == "samples"]
Sets = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(d: int, seed: int = 0, n: int = 24, m: int = 26) -> Sets:
    rng = np.random.default_rng([d, seed])
    return rng.normal(size=(n, d)) + 0.3, rng.normal(size=(m, d)), rng.normal(size=(22, d))


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sets], Sets]:
    return lambda sets: tuple(change(points) for points in sets)  # type: ignore[return-value]


def with_last(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: np.concatenate([points[:-1], np.full((1, points.shape[1]), value)])


def constant(points: np.ndarray) -> np.ndarray:
    return np.tile(points[:1], (len(points), 1))


KINDS: dict[str, Callable[[Sets], Sets]] = {
    "ordinary": each(lambda a: a),
    "all near 1e149": each(lambda a: a * 1e149),
    "samples near 1e149": lambda s: (s[0] * 1e149, *s[1:]),
    "beyond squares": each(lambda a: a * 1e200),
    "all below squares": each(lambda a: a * 1e-310),
    "samples below squares": lambda s: (s[0] * 1e-310, *s[1:]),
    "reference below squares": lambda s: (s[0], s[1] * 1e-310, s[2]),
    "tiny": each(lambda a: a * 1e-140),
    "one": each(lambda a: a[:1]),
    "two": each(lambda a: a[:2]),
    "three": each(lambda a: a[:3]),
    "two samples": lambda s: (s[0][:2], *s[1:]),
    "two real": lambda s: (s[0], s[1][:2], s[2]),
    "none": lambda s: (s[0][:0], *s[1:]),
    "collapsed": lambda s: (s[0][:1] + 1e-6 * s[0], *s[1:]),
    "equal samples": lambda s: (constant(s[0]), *s[1:]),
    "constant reference": lambda s: (s[0], constant(s[1]), s[2]),
    "nearly constant reference": lambda s: (s[0], 0.1 + 1e-9 * s[1], s[2]),
    "both constant": each(constant),
    "the same constant": each(lambda a: np.full_like(a, 0.1)),
    "the reference itself": lambda s: (s[1], s[1], s[2]),
    "duplicates": lambda s: (np.repeat(s[0][:4], 6, axis=0), np.repeat(s[1][:13], 2, axis=0), s[2]),
    "copies": lambda s: (np.concatenate([s[1][:12]] * 2), *s[1:]),
    "copies but for rounding": lambda s: (s[1][:24] + 1e-14, *s[1:]),
    "far samples": lambda s: (s[0] + 1e8, *s[1:]),
    "all far": each(lambda a: a + 1e8),
    "one far sample": lambda s: (with_last(1e7)(s[0]), *s[1:]),
    "one far real": lambda s: (s[0], with_last(1e7)(s[1]), s[2]),
    "one far on both sides": each(with_last(1e12)),
    "float16": each(lambda a: a.astype(np.float16)),
    "float32": each(lambda a: a.astype(np.float32)),
    "lattice": each(lambda a: np.round(2 * a).astype(np.int64)),
    "NaN": lambda s: (with_last(math.nan)(s[0]), *s[1:]),
    "infinite": lambda s: (with_last(math.inf)(s[0]), *s[1:]),
    "infinite real": lambda s: (s[0], with_last(-math.inf)(s[1]), s[2]),
    "other dimension": lambda s: (np.concatenate([s[0]] * 2, axis=1), *s[1:]),
}
# A classifier sees standardised inputs only, an extrapolation is 15 distances: a few kinds show all there is.
SLOW = {
    "c2st": ("ordinary", "two", "both constant", "all near 1e149", "NaN"),
    "frechet_distance_infinity": (
        "ordinary",
        "two",
        "three",
        "collapsed",
        "all near 1e149",
        "equal samples",
        "all far",
        "NaN",
    ),
}
REFUSED = {"NaN", "infinite", "beyond squares", "none"}
COMPUTED = {
    "ordinary",
    "collapsed",
    "equal samples",
    "far samples",
    "all far",
    "one far sample",
    "copies",
    "float16",
    "lattice",
}


def context(sets: Sets, only_seed: bool = True, fresh: bool = False) -> Evidence:
    x, y, heldout = sets
    means = torch.from_numpy(6 * np.random.default_rng(0).normal(size=(3, y.shape[1])))
    return of_samples(
        x,
        y,
        features=lambda a: a,
        extractor={"name": "identity", "sha256": "0" * 64},
        sha256="0" * 64,
        only_seed=only_seed,
        fresh_reference=fresh,
        endpoints=x + 0.1,
        heldout=heldout,
        mixture=GaussianMixture(means, 1.0, torch.tensor([0.2, 0.3, 0.5])),
        logits=x,
    )


def assert_sound(name: str, estimate: Estimate) -> None:
    low, high = METRICS[name].range
    assert estimate.value is not None
    assert math.isfinite(estimate.value)
    assert low <= estimate.value <= high
    if estimate.ci is not None:
        assert all(math.isfinite(end) for end in estimate.ci)
        assert low <= estimate.ci[0] <= estimate.value <= estimate.ci[1] <= high


def outcome(name: str, sets: Sets, only_seed: bool, fresh: bool) -> Estimate | str:
    """The estimate, or the one line that refuses the samples. Any other exception or a numerical warning fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return METRICS[name].resolve()(context(sets, only_seed, fresh))
        except ValueError as error:
            return str(error)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 66])
@pytest.mark.parametrize("name", NAMES)
def test_a_right_number_or_one_line(name: str, d: int) -> None:
    for kind, change in KINDS.items():
        if kind not in SLOW.get(name, KINDS):
            continue
        for only_seed, fresh in ((True, False),) if name in SLOW else ((True, False), (True, True), (False, False)):
            got = outcome(name, change(draw(d)), only_seed, fresh)
            if isinstance(got, str):
                assert kind not in COMPUTED or name == "ct_score", (kind, got)
                assert "\n" not in got and 10 < len(got) < 250
            else:
                assert kind not in REFUSED, kind
                assert_sound(name, got)


CHEAP = [name for name in NAMES if name not in ("c2st", "ct_score", "frechet_distance_infinity", "sinkhorn_divergence")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_values_lie_in_their_intervals_and_both_in_the_range(name: str) -> None:
    for seed in range(25):
        rng = np.random.default_rng(seed)
        d, n, m = (int(size) for size in (rng.integers(1, 5), rng.integers(7, 40), rng.integers(7, 40)))
        x, y, heldout = draw(d, seed, n, m)
        sets = (x * rng.choice([0.01, 1.0, 3.0]) + rng.choice([0.0, 5.0]), y, heldout)
        for only_seed, fresh in ((True, False), (True, True)):
            assert_sound(name, METRICS[name].resolve()(context(sets, only_seed, fresh)))
        # Few seeds that differ much have wide intervals, which must not leave the range either.
        several = [context((s[0] * scale, *s[1:]), False) for s, scale in ((sets, 1.0), (draw(d, seed, n, m), 0.1))]
        assert_sound(name, attempt(name, several))


def test_ranges_are_those_of_the_definitions() -> None:
    assert {info.range for info in METRICS.values()} == {
        (-math.inf, math.inf),
        (0, math.inf),
        (-1, math.inf),
        (0, 1),
        (-2, 2),
        (1, math.inf),
    }
    # A kernel in [0, 1] takes MMD^2 above 1: two equal points far from two real ones, which are a bandwidth apart.
    x, y = np.zeros((2, 1)), np.array([[1.0], [1.0 + 1e-9]])
    assert METRICS["mmd"].resolve()(context((x, y, x), only_seed=False)).value == pytest.approx(
        1 + math.exp(-0.5), rel=1e-6
    )
