"""Cases of the metrics of the trajectories: fields solved in closed form, started from points with exact moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from fmbench.metrics.crossing import pair_losses
from fmbench.registry import SOLVERS, TASKS
from fmbench.shapes import Points, Velocity
from fmbench.solvers.base import uniform_grid
from fmbench.tasks.mixture import MixtureVelocity
from fmbench.validation import flow_fields as fields
from fmbench.validation.check import Check, exact, sampled
from fmbench.validation.gaussians import DIMENSIONS
from fmbench.validation.registered import on_flow, on_samples, scene
from fmbench.validation.transport import monge_gap_of_maps

STEPS = 64
STDS = (0.5, 2.0)
SOLVE = 1e-5
"""Relative tolerance of integrals on the reference solve (RK4, 64 steps), whose error is that of RK4."""
DIFFERENCES = 5e-3
"""Relative tolerance of curvature, whose acceleration comes from differences of order 2 between the nodes."""
CURVED = "N(0, I) to N(0, s^2 I), independent pairs"


def _squared(s: float) -> float:
    return (1 - s) ** 2


def _excess(s: float) -> float:
    return fields.straightness(s) / (1 - s) ** 2


def _integral(
    name: str, curved: Callable[[float], float], straight: Callable[[float], float], moved: float, total: bool = True
) -> Iterator[Check]:
    """A metric on the curved flow, the straight flow and a translation; ``total``: it sums over dimensions.

    ``curved`` and ``straight`` give the answers per dimension, ``moved`` that of the translation per ``|shift|^2``.
    """
    tolerance = DIFFERENCES if name == "curvature" else SOLVE
    for d in DIMENSIONS:
        x0, offset = fields.start(d), fields.offset(d)
        scale, length = (float(d), float(offset.square().sum())) if total else (1.0, 1.0)
        for s in STDS:
            got = on_flow(name, scene(fields.gaussian_flow(s), x0, STEPS, d * _squared(s)))
            yield exact(name, f"curved flow, s = {s:g}, d = {d}", scale * curved(s), got, CURVED, tolerance)
        s = STDS[0]
        got = on_flow(name, scene(fields.straight_flow(s), x0, STEPS, d * _squared(s)))
        note = "constant speed along the chord"
        yield exact(name, f"straight flow, s = {s:g}, d = {d}", scale * straight(s), got, note, SOLVE, 1e-8)
        got = on_flow(name, scene(fields.translation(offset), x0, STEPS, float(offset.square().sum())))
        yield exact(name, f"translation, d = {d}", length * moved, got, "straight and optimal", SOLVE, 1e-8)


def _crossing_pairs() -> Iterator[Check]:
    """The crossing of given couplings, by its pure function."""
    name = "crossing"
    for d in DIMENSIONS[:3]:
        for s in STDS:
            rng = np.random.default_rng([d, int(2 * s)])
            x0, z = (torch.from_numpy(rng.standard_normal((2000, d))) for _ in range(2))
            losses = pair_losses(fields.gaussian_flow(s), x0, s * z)
            case, truth = f"independent pairs, s = {s:g}, d = {d}", d * fields.crossing(s)
            yield sampled(name, case, truth, losses, "pi s / 2 per axis (pi / 4 for s = 1/2)")
    task = TASKS.resolve("mixture-2d")()
    velocity, mixture = MixtureVelocity(task.source_mixture, task.target_mixture), task.target_mixture
    spread = mixture.weights @ (mixture.means.square() + mixture.stds.square()).sum(dim=1)
    values = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x0, other = (torch.randn((n, 2), generator=generator) for n in (400, 200))
        energy = on_flow("path_energy", scene(velocity, other, STEPS))
        values.append(float(pair_losses(velocity, x0, mixture.sample(400, generator)).mean()) + energy)
    note = "V + PE = E|X1 - X0|^2, known from the mixture's moments"
    yield sampled(name, "crossing + path energy, mixture-2d", 2 + float(spread), values, note)


def _crossing() -> Iterator[Check]:
    name = "crossing"
    yield from _crossing_pairs()
    for d in DIMENSIONS:
        x0 = fields.start(d)
        got = on_flow(name, scene(fields.straight_flow(0.5), x0, STEPS))
        yield exact(name, f"own pairs, straight flow, d = {d}", 0.0, got, "chords of an optimal map do not cross")
        got = on_flow(name, scene(fields.gaussian_flow(0.5), x0, STEPS))
        truth = d * fields.own_crossing(0.5)
        yield exact(
            name, f"own pairs, curved flow, d = {d}", truth, got, "velocity on the chords, by quadrature", SOLVE
        )


def _monge_gap() -> Iterator[Check]:
    """Maps given as pairs, then solved flows in four groups of trajectories."""
    yield from monge_gap_of_maps()
    name, turn = "monge_gap", 2 * math.pi * 5 / 24
    for d in DIMENSIONS:
        for label, field in (
            ("curved", fields.gaussian_flow(2.0)),
            ("translation", fields.translation(fields.offset(d))),
        ):
            got = on_flow(name, scene(field, fields.start(d), STEPS))
            yield exact(name, f"{label} flow, d = {d}", 0.0, got, "gradient of a convex function")
    angle = torch.arange(24, dtype=torch.float64) * (2 * math.pi / 24)
    polygon = torch.stack([angle.cos(), angle.sin()], dim=1).repeat(8, 1)
    spin = torch.tensor([[0.0, -turn], [turn, 0.0]], dtype=torch.float64)
    got = on_flow(name, scene(fields.linear_field(spin), polygon, STEPS))
    note = "maps the set to itself: the whole cost is wasted"
    yield exact(name, "flow that turns 24-gons by 5/24", 4 * math.sin(turn / 2) ** 2, got, note, SOLVE)


def _first_orderness() -> Iterator[Check]:
    name = "first_orderness"
    for d in DIMENSIONS:
        for s in STDS:
            got = on_flow(name, scene(fields.gaussian_flow(s), fields.start(d), STEPS))
            note = "noise prediction (1 - t) / sigma_t Z0, its variance over time by quadrature"
            yield exact(name, f"curved flow, s = {s:g}, d = {d}", fields.noise_variance(s), got, note, SOLVE)
        for label, field in (
            ("straight", fields.straight_flow(0.5)),
            ("translation", fields.translation(fields.offset(d))),
        ):
            got = on_flow(name, scene(field, fields.start(d), STEPS))
            yield exact(name, f"{label} flow, d = {d}", 0.0, got, "the noise prediction stays Z0", absolute=1e-8)


def _shifted_oracle() -> Iterator[Check]:
    name, oracle = "velocity_error", fields.gaussian_flow(0.5)
    for d in DIMENSIONS:
        offset = fields.offset(d)
        wrong = scene(lambda x, t, c=offset: oracle(x, t) + c, fields.start(d), STEPS, oracle=oracle)
        truth = float(offset.square().sum())
        yield exact(name, f"oracle + shift, d = {d}", truth, on_flow(name, wrong), "|shift|^2 at every time")
        still = scene(lambda x, t: 0 * x, fields.start(d), STEPS, oracle=oracle)
        note = "path energy of the oracle"
        yield exact(name, f"zero field, d = {d}", d * fields.energy(0.5), on_flow(name, still), note, SOLVE)


def _scaled_oracle() -> Iterator[Check]:
    name, oracle = "relative_velocity_error", fields.gaussian_flow(0.5)
    for d in DIMENSIONS:
        for factor in (1.0, 0.9, 0.0):
            made = scene(lambda x, t, k=factor: k * oracle(x, t), fields.start(d), STEPS, oracle=oracle)
            got = on_flow(name, made)
            yield exact(name, f"{factor:g} times the oracle, d = {d}", (1 - factor) ** 2, got, "(1 - factor)^2")


def _euler(velocity: Velocity, x0: Points, steps: int) -> np.ndarray:
    return SOLVERS.resolve("euler")().solve(velocity, x0, uniform_grid(steps)).numpy()


def _truncation_gap() -> Iterator[Check]:
    name, s = "truncation_gap", 0.5
    for d in DIMENSIONS:
        x0, field = fields.start(d), fields.gaussian_flow(s)
        solve = scene(field, x0, STEPS).trajectories
        stop = x0.numpy() if solve is None else solve.stop.numpy()
        for steps, truth in ((1, s), (2, s - s**2 / (1 + s**2))):
            got = on_samples(name, _euler(field, x0, steps), stop, endpoints=stop)
            yield exact(
                name, f"curved flow, Euler @{steps}, d = {d}", truth, got, "Euler by hand against Z1 = s Z0", SOLVE
            )
        growth = fields.linear_field(torch.eye(d, dtype=torch.float64))
        got = on_samples(name, _euler(growth, x0, 8), stop, endpoints=math.e * x0.numpy())
        yield exact(name, f"v = x, Euler @8, d = {d}", math.e - (9 / 8) ** 8, got, "e - (1 + 1/8)^8")
        got = on_samples(name, _euler(fields.straight_flow(s), x0, 1), stop, endpoints=(s * x0).numpy())
        yield exact(name, f"straight flow, Euler @1, d = {d}", 0.0, got, "one step is exact")


CASES: dict[str, Callable[[], Iterator[Check]]] = {
    "straightness": partial(_integral, "straightness", fields.straightness, lambda s: 0.0, 0.0),
    "path_energy": partial(_integral, "path_energy", fields.energy, _squared, 1.0),
    "kinetic_energy": partial(
        _integral, "kinetic_energy", lambda s: fields.energy(s) / 2, lambda s: _squared(s) / 2, 0.5
    ),
    "normalized_path_energy": partial(_integral, "normalized_path_energy", _excess, lambda s: 0.0, 0.0, total=False),
    "transport_cost": partial(_integral, "transport_cost", _squared, _squared, 1.0),
    "curvature": partial(_integral, "curvature", fields.curvature, lambda s: 0.0, 0.0),
    "monge_gap": _monge_gap,
    "crossing": _crossing,
    "first_orderness": _first_orderness,
    "velocity_error": _shifted_oracle,
    "relative_velocity_error": _scaled_oracle,
    "truncation_gap": _truncation_gap,
}
