"""Cases of the metrics that use derivatives and inverses of a field: round trip, Lipschitz, divergence, likelihood, bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from fmbench.metrics.inversion import round_trip_error
from fmbench.metrics.jacobian import exact_divergence, hutchinson_divergence
from fmbench.metrics.likelihood import bits_per_dimension, dequantise, log_likelihood, nll_estimate, rademacher
from fmbench.metrics.lipschitz import local_lipschitz
from fmbench.registry import SOLVERS, TASKS
from fmbench.shapes import Points
from fmbench.solvers.base import cosine_grid
from fmbench.tasks.base import LogDensity, StandardNormal
from fmbench.tasks.mixture import MixtureVelocity
from fmbench.validation import flow_fields as fields
from fmbench.validation.check import Check, exact, sampled
from fmbench.validation.gaussians import DIMENSIONS, frame
from fmbench.validation.registered import on_flow, scene, value_of

LEVELS = (2, 17, 256)
RATE, STEPS = 0.8, 10


def _round_trip_error() -> Iterator[Check]:
    name, h = "round_trip_error", RATE / STEPS
    # One step of v = r x and one back multiply by the stability polynomial at h = r / N and at -h.
    known = {"euler": 1 - h**2, "heun": 1 + h**4 / 4, "rk4": 1 + h**6 / 72 + h**8 / 576}
    for d in DIMENSIONS:
        field, x0 = fields.linear_field(RATE * torch.eye(d, dtype=torch.float64)), fields.start(d)
        for solver, factor in known.items():
            got = value_of(name, round_trip_error(field, x0, STEPS, SOLVERS.resolve(solver)()))
            note = f"|({factor - 1:+.2e} + 1)^{STEPS} - 1|: stability polynomial at h and -h"
            yield exact(name, f"v = 0.8 x, {solver} @{STEPS}, d = {d}", abs(factor**STEPS - 1), got, note, 1e-5, 1e-14)
        got = on_flow(name, scene(field, x0, STEPS))
        truth = abs(known["rk4"] ** STEPS - 1)
        yield exact(name, f"v = 0.8 x, as registered, d = {d}", truth, got, "RK4", 1e-5, 1e-14)


def _lipschitz() -> Iterator[Check]:
    name = "lipschitz"
    for d in DIMENSIONS[:3]:
        rng = np.random.default_rng(d)
        left, right = frame(d, rng), frame(d, rng)
        scales = np.append(np.linspace(0.1, 1.0, d - 1), 2.0)
        matrix = torch.from_numpy((left * scales) @ right.T)
        got = on_flow(name, scene(fields.linear_field(matrix), fields.start(d)[:8], 4))
        note = "largest singular value; the matrix is not symmetric"
        yield exact(name, f"linear field, d = {d}", 2.0, got, note, 1e-6)
        generator, steps = torch.Generator().manual_seed(d), 16
        values = local_lipschitz(fields.gaussian_flow(0.5), fields.start(d)[:8], steps, generator, iterations=1)
        nodes = cosine_grid(steps)
        truth, note = float(fields.gaussian_rate(0.5, nodes).abs().max()), "largest |sigma' / sigma| on the nodes"
        yield exact(name, f"curved flow, s = 0.5, d = {d}", truth, float(values.mean()), note)
    shear = torch.tensor([[0.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    got = on_flow(name, scene(fields.linear_field(shear), fields.start(2)[:8], 4))
    yield exact(name, "shear, all eigenvalues 0", 3.0, got, "singular value, not eigenvalue", 1e-6)


def _divergence() -> Iterator[Check]:
    name = "divergence"
    for d in DIMENSIONS:
        noise = np.random.default_rng(d).standard_normal((d, d)) / d
        matrix, x = torch.from_numpy(np.eye(d) + noise), torch.ones(200, d, dtype=torch.float64)
        t = torch.full((len(x),), 0.5, dtype=torch.float64)
        field, truth = fields.linear_field(matrix), float(matrix.trace())
        got = float(exact_divergence(field, x[:2], t[:2])[1].mean())
        yield exact(name, f"exact, linear field, d = {d}", truth, got, "trace of the matrix")
        probes = rademacher((1, *x.shape), torch.Generator().manual_seed(d)).double()
        values = hutchinson_divergence(field, x, t, probes)[1].numpy()
        yield sampled(name, f"Hutchinson, linear field, d = {d}", truth, values, "unbiased for the trace")
        got = float(hutchinson_divergence(fields.gaussian_flow(0.5), x[:1], t[:1], probes[:, :1])[1])
        rate = float(fields.gaussian_rate(0.5, t[0]))
        yield exact(name, f"Hutchinson, diagonal, d = {d}", d * rate, got, "one probe is exact")


def _nll() -> Iterator[Check]:
    name, note = "nll", "entropy of N(0, s^2 I), on points whose second moment is exact"
    normal = StandardNormal(()).log_prob
    for d, s in ((2, 0.5), (16, 2.0)):
        got = on_flow(name, scene(fields.gaussian_flow(s), s * fields.start(d), 24, source_density=normal))
        yield exact(name, f"curved flow, s = {s:g}, exact trace, d = {d}", fields.entropy(s, d), got, note, 0.0, 1e-4)
    for d, s in ((2, 2.0), (16, 0.5), (64, 0.5), (512, 2.0)):
        generator = torch.Generator().manual_seed(d)
        found = log_likelihood(fields.gaussian_flow(s), s * fields.start(d), 24, normal, "hutchinson", 1, generator)
        got = value_of(name, nll_estimate(found))
        yield exact(name, f"curved flow, s = {s:g}, Hutchinson, d = {d}", fields.entropy(s, d), got, note, 0.0, 1e-4)
    for task in ("mixture-2d", "mixture-16d"):
        made = TASKS.resolve(task)()
        x1 = made.target_mixture.sample(8, torch.Generator().manual_seed(0)).double()
        velocity = MixtureVelocity(made.source_mixture, made.target_mixture)
        got = on_flow(name, scene(velocity, x1, 24, source_density=normal))
        truth = -float(made.target_mixture.log_prob(x1).mean())
        yield exact(name, f"oracle of {task}", truth, got, "density of the mixture at the same points", 0.0, 1e-3)


def _uniform(lo: float, hi: float) -> LogDensity:
    """Log density of the uniform distribution on [lo, hi]^D, for (n, D) points."""

    def log_density(x: Points) -> torch.Tensor:
        inside = ((x >= lo) & (x <= hi)).all(dim=1)
        return torch.where(inside, -x.shape[1] * math.log(hi - lo), -math.inf).double()

    return log_density


def _bits_per_dimension() -> Iterator[Check]:
    name, dim, note = "bits_per_dimension", 3, "log2 of the number of levels"
    still = fields.translation(torch.zeros(dim))
    for levels in LEVELS:
        generator = torch.Generator().manual_seed(levels)
        grey = torch.randint(0, levels, (16, dim), generator=generator)
        for lo, hi in ((0.0, 1.0), (-1.0, 1.0)):
            x1 = dequantise(grey, levels, lo, hi, generator)
            nll = -log_likelihood(still, x1, 2, _uniform(lo, hi))
            got = float(bits_per_dimension(nll, dim, levels, lo, hi).mean())
            case = f"uniform model, {levels} levels on [{lo:g}, {hi:g}]"
            yield exact(name, case, math.log2(levels), got, note, absolute=1e-6)
        # As registered: grey level k stands for the bin around 2 k / (levels - 1) - 1.
        edge = 1 + 1 / (levels - 1)
        pictures, density = 2 * grey.float() / (levels - 1) - 1, _uniform(-edge, edge)
        got = on_flow(name, scene(still, pictures, 2, source_density=density, levels=levels))
        yield exact(name, f"uniform model, {levels} levels, as registered", math.log2(levels), got, note, absolute=1e-6)


CASES: dict[str, Callable[[], Iterator[Check]]] = {
    "round_trip_error": _round_trip_error,
    "lipschitz": _lipschitz,
    "divergence": _divergence,
    "nll": _nll,
    "bits_per_dimension": _bits_per_dimension,
}
