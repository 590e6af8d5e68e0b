"""Cases of the transport distances: exact, sliced, entropic and sparse optimal transport, and the Monge gap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from fmbench.metrics.monge_gap import monge_gap
from fmbench.registry import TASKS
from fmbench.tasks.products import MODE_AXES
from fmbench.transport.distances import squared_distances
from fmbench.transport.entropic import EntropicPlan, entropic_cost, sinkhorn, sinkhorn_divergence
from fmbench.transport.exact import same_distribution_floor, wasserstein2
from fmbench.transport.sinkhorn_newton import sinkhorn_newton
from fmbench.transport.sliced import CONTROLS, sliced_wasserstein2
from fmbench.transport.sparse import sparse_ot
from fmbench.validation.check import Check, exact, sampled
from fmbench.validation.gaussians import DIMENSIONS, entropic_gaussian_cost, frame, gaussian_pair, whitened
from fmbench.validation.registered import on_samples

Solve = Callable[..., EntropicPlan]
REPEATS = 16
SIZES = {2: 200, 16: 200, 64: 200, 512: 600}


def _polygon(n: int, turn: float = 0.0) -> np.ndarray:
    angle = 2 * math.pi * np.arange(n) / n + turn
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _cross_polytope(d: int) -> np.ndarray:
    return np.concatenate([np.eye(d), -np.eye(d)])


def product_map(x: np.ndarray, modes: int, points: int = 20_001) -> np.ndarray:
    """The optimal map from N(0, I) to the product mixtures of ``fmbench.tasks.products`` in their frame: monotone on every axis."""
    from scipy.special import ndtr

    stds = np.geomspace(0.3, 1.5, x.shape[1] - modes) if x.shape[1] > modes else np.empty(0)
    moved = np.empty_like(x)
    moved[:, modes:] = x[:, modes:] * stds
    grid = np.linspace(-8.0, 8.0, points)
    for k, axis in enumerate(MODE_AXES[:modes]):
        cdf = sum(weight * ndtr((grid - mean) / std) for weight, mean, std in axis)
        moved[:, k] = np.interp(ndtr(x[:, k]), cdf, grid)
    return moved


def _wasserstein2() -> Iterator[Check]:
    name = "wasserstein2"
    for d in DIMENSIONS:
        pair, rng = gaussian_pair(d), np.random.default_rng(d)
        x = pair.first(whitened(SIZES[d], d, rng))
        y = pair.move(x)[rng.permutation(len(x))]
        note = "gradient of a convex function: optimal on any sample"
        yield exact(
            name, f"Gaussian pair, linear map, d = {d}", math.sqrt(pair.w2_squared), on_samples(name, y, x), note
        )
        offset = np.linspace(-1, 1, d)
        shifted = (x + offset)[rng.permutation(len(x))]
        truth = math.sqrt(float(offset @ offset))
        yield exact(name, f"translation, d = {d}", truth, on_samples(name, shifted, x), "length of the shift")
    got = on_samples(name, _polygon(40, 0.05), _polygon(40))
    yield exact(name, "40-gon turned by 0.05", 2 * math.sin(0.025), got, "chord of the angle")
    n = 50
    draws = np.random.default_rng(1).uniform(size=(400, 2, n, 1))
    values = [wasserstein2(x, y) ** 2 for x, y in draws]
    yield sampled(name, f"square, uniform, n = {n}, d = 1", 1 / (3 * (n + 1)), values, "variances of order statistics")
    for task, modes in (("mixture-2d", 2), ("mixture-16d", 3), ("mixture-64d", 4)):
        made = TASKS.resolve(task)()
        values = []
        for seed in range(REPEATS):
            x = np.random.default_rng([seed, made.dim]).standard_normal((200, made.dim))
            values.append(on_samples(name, product_map(x, modes), x) ** 2)
        note = "monotone map on every axis; the task's W2^2 by quadrature"
        yield sampled(name, f"square, {task} product map", made.w2_squared[0], values, note)


def _floor() -> Iterator[Check]:
    n = 50
    generators = [np.random.default_rng(seed) for seed in range(400)]
    estimate = same_distribution_floor(lambda size, rng: rng.uniform(size=(size, 1)), n, generators)
    values = np.asarray(estimate.details["per_seed"]) ** 2
    note = "variances of order statistics: 1 / (3 (n + 1))"
    yield sampled("same_distribution_floor", f"square, uniform, n = {n}, d = 1", 1 / (3 * (n + 1)), values, note)


def _sliced() -> Iterator[Check]:
    name = "sliced_wasserstein2"
    for d in DIMENSIONS:
        x = whitened(SIZES[d], d, np.random.default_rng(d))
        got = on_samples(name, 1.7 * x, x)
        yield exact(name, f"isotropic scaling, d = {d}", 0.7, got, "white samples: 0.7 along every direction")
        offset = np.linspace(-1, 1, d)
        truth = float(offset @ offset) / d
        for control in CONTROLS:
            rngs = (np.random.default_rng([seed, d]) for seed in range(REPEATS))
            values = [sliced_wasserstein2(x, x + offset, 100, rng, control) ** 2 for rng in rngs]
            yield sampled(name, f"square, translation, control {control}, d = {d}", truth, values, "|shift|^2 / d")
    x = np.random.default_rng(3).standard_normal((30, 4))
    got = on_samples(name, np.repeat(x, 3, axis=0), x)
    yield exact(name, "every point three times", 0.0, got, "the same measure from unequal sizes")


def _hermite(d: int, shift: float, std: float, nodes: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Hermite points and weights of N(shift, std^2) x N(0, 1) on a plane inside R^d: moments exact to order 39."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    # Nodes of negligible weight only slow the solver down.
    kept = weights > 1e-12
    points, weights = points[kept], weights[kept]
    plane = np.array(list(itertools.product(shift + std * points, points)))
    return plane @ frame(d, np.random.default_rng(d))[:2], np.outer(weights, weights).ravel()


def _entropic(name: str, solve: Solve) -> Iterator[Check]:
    shift, std, epsilon = 1.0, 1.5, 2.0
    truth = entropic_gaussian_cost(shift, 1.0, std, epsilon) + entropic_gaussian_cost(0.0, 1.0, 1.0, epsilon)
    for d in DIMENSIONS:
        (x, a), (y, b) = _hermite(d, 0.0, 1.0), _hermite(d, shift, std)
        got = solve(squared_distances(x, y), epsilon, a, b).value
        note = "closed form of Janati et al. on Gauss-Hermite points of a plane"
        yield exact(name, f"Gaussians, epsilon = 2, d = {d}", truth, got, note, 1e-5)


def _entropic_cost() -> Iterator[Check]:
    yield from _entropic("entropic_cost", sinkhorn)
    x = np.array([[0.0], [1.0]])
    # Two points, plan (p, q; q, p): q / p = exp(-1 / epsilon) with epsilon = 1; the value is -log of the mean kernel.
    truth = -math.log((1 + math.exp(-1)) / 2)
    yield exact(
        "entropic_cost", "two points with themselves", truth, entropic_cost(x, x, 1.0), "2 x 2 plan by hand", 1e-6
    )


def _sinkhorn_divergence() -> Iterator[Check]:
    name, shift, std, epsilon = "sinkhorn_divergence", 1.0, 1.5, 2.0
    truth = entropic_gaussian_cost(shift, 1.0, std, epsilon)
    truth -= 0.5 * (entropic_gaussian_cost(0, 1.0, 1.0, epsilon) + entropic_gaussian_cost(0, std, std, epsilon))
    # Midpoints of equal-probability bins: uniform weights, error of order 1/n in the variance.
    from scipy.special import ndtri

    x = ndtri((np.arange(400) + 0.5) / 400)[:, None]
    x /= x.std()
    got = sinkhorn_divergence(x, shift + std * x, epsilon)
    yield exact(name, "Gaussians on 400 quantiles, d = 1", truth, got, "closed form of Janati et al.", relative=5e-3)
    for d in DIMENSIONS:
        x = np.random.default_rng(d).standard_normal((100, d))
        offset = np.linspace(-1, 1, d)
        got = on_samples(name, x + offset, x)
        yield exact(
            name, f"translation, d = {d}", float(offset @ offset), got, "|shift|^2 at every epsilon", 1e-5, 1e-6
        )


def _sparse_ot() -> Iterator[Check]:
    name, gamma = "sparse_ot", 4.0
    got = sparse_ot(np.array([[0.0, 1.0], [1.0, 0.0]]), 2, gamma).transport_cost
    yield exact(
        name, "2 x 2, quadratic, gamma = 4", 0.5 - 1 / gamma, got, "plan (p, q; q, p) with p - q = 1 / gamma", 1e-6
    )
    x = 10.0 * np.arange(20)[:, None]
    plan = sparse_ot(squared_distances(x, x + 1), 1, 1.0)
    yield exact(name, "translation, k = 1", 1.0, plan.transport_cost, "every point to its own image", 1e-6)
    yield exact(name, "translation, k = 1: row violation", 0.0, plan.row_violation, "a permutation", absolute=1e-6)


def monge_gap_of_maps() -> Iterator[Check]:
    """The gap of maps given as pairs; that of solved flows stands with the flows."""
    name = "monge_gap"
    for d in DIMENSIONS:
        pair, rng = gaussian_pair(d), np.random.default_rng(d)
        x = pair.first(rng.standard_normal((200, d)))
        note = "gradient of a convex function"
        yield exact(name, f"linear map, d = {d}", 0.0, monge_gap(x, pair.move(x)), note)
    for d in DIMENSIONS[:3]:
        corners = _cross_polytope(d)
        turned = np.roll(corners, 1, axis=1)
        for label, epsilon in (("exact", None), ("epsilon = 0.5", 0.5)):
            note = "e_k to e_(k+1) maps the set to itself: all of the cost 2 is wasted"
            got = monge_gap(corners, turned, epsilon)
            yield exact(name, f"cyclic rotation, {label}, d = {d}", 2.0, got, note, 1e-5)
    turn = 2 * math.pi * 5 / 40
    got = monge_gap(_polygon(40), _polygon(40, turn))
    yield exact(name, "rotation of a 40-gon onto itself", 4 * math.sin(turn / 2) ** 2, got, "the whole cost is wasted")


CASES: dict[str, Callable[[], Iterator[Check]]] = {
    "wasserstein2": _wasserstein2,
    "same_distribution_floor": _floor,
    "sliced_wasserstein2": _sliced,
    "entropic_cost": _entropic_cost,
    "sinkhorn_newton": partial(_entropic, "sinkhorn_newton", sinkhorn_newton),
    "sinkhorn_divergence": _sinkhorn_divergence,
    "sparse_ot": _sparse_ot,
}
