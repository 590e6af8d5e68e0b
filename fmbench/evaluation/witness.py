"""Fingerprint of a few samples, to check whether another computer reproduces them: a hash, and fixed random projections of their values.

The first rows of the first noise block represent all samples of a sampler, and the field along their trajectories represents the flow.
A code change that affects later rows only is not detected: the witness recognises code that was moved, renamed or sped up; it does not
protect against deliberate manipulation.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from fmbench.execution.checked import guarded_field
from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.flows.flow import EXACT_DENSITY, VELOCITY, device_of
from fmbench.metrics.jacobian import jacobian_product
from fmbench.records.sidecar import Witness
from fmbench.shapes import Condition, Points
from fmbench.storage.files import sha256
from fmbench.zoo.model import Model, evaluating

ROWS = 16
"""Number of samples in a witness."""
PROJECTIONS = 32
STEPS = 8
"""Number of Euler steps along which the field is evaluated."""
TOLERANCE = 1e-4
"""Largest difference of two projections, as a share of their root mean square.

The same weights give samples that differ by 2e-6 to 2e-5 of their size between machines (convolutional networks; others agree better). Of
the bundled digits and MNIST entries, other convolution kernels moved projections of samples by 4e-6 and those of the field by 1e-5, other
batch sizes by 2e-6: ten times that. Numbers of one key may differ by ten times as much again (``filling.TOLERANCE``), so what passes moves
no metric beyond what two machines do. A change of a single number shows from ``1e-4 sqrt(rows numbers)`` of their size: half a thousandth
in two dimensions, a hundredth for a picture of 28 x 28.
"""


def _signs(index: int, count: int) -> np.ndarray:
    """The (count,) random signs of a projection, the same on every machine and for every version of NumPy."""
    data = hashlib.shake_256(f"fmbench witness {index}".encode()).digest(-(-count // 8))
    return 2.0 * np.unpackbits(np.frombuffer(data, np.uint8), count=count) - 1.0


def witness_of(points: Points) -> Witness | None:
    """The witness of the first of (n, ...) points; None when they are not finite."""
    few = np.ascontiguousarray(points[:ROWS].detach().float().cpu().numpy())
    flat = few.reshape(-1).astype(np.float64)
    if not (len(flat) and np.isfinite(flat).all()):
        return None
    sums = [float(_signs(k, len(flat)) @ flat) / len(flat) ** 0.5 for k in range(PROJECTIONS)]
    return Witness(sha256(few), len(few), tuple(float(np.float32(value)) for value in sums))


def agree(one: Witness | None, other: Witness | None) -> bool:
    """Whether two witnesses agree: bit for bit, or within :data:`TOLERANCE`; False when one is missing."""
    if one is None or other is None or (one.rows, len(one.projections)) != (other.rows, len(other.projections)):
        return False
    a, b = np.array(one.projections), np.array(other.projections)
    size = float(np.sqrt(np.minimum((a**2).mean(), (b**2).mean())))
    return one.sha256 == other.sha256 or bool(np.abs(a - b).max() <= TOLERANCE * size)


def _along(model: Model, x: Points, cond: Condition | None) -> list[Tensor]:
    """The velocity and its derivative along the first noises, at every Euler step from 0 to 1; no derivatives where there are none."""
    field, seen, tangent = guarded_field(model.method.field(cond)), [], x  # type: ignore[operator]
    for step in range(STEPS + 1):
        t = torch.full((len(x),), step / STEPS, device=x.device)
        v = field(x, t)
        try:
            seen += [v, jacobian_product(field, x, t, tangent)[1]]
        except (ForeignError, RuntimeError):
            seen += [v]
        x = x + v / STEPS
    return seen


def field_witness(model: Model | None, seed: int) -> Witness | None:
    """The witness of a velocity field, of which the metrics of the flow are functions: seen from the first noises of a seed.

    None for a model without one, for one whose density is another thing, and where the field fails.
    """
    if model is None or VELOCITY not in model.method.capabilities or EXACT_DENSITY in model.method.capabilities:
        return None
    device, labels = device_of(model.method), model.labels(0, ROWS, seed)
    cond = None if labels is None else Condition(labels.to(device))
    try:
        with foreign(), isolated(), torch.no_grad(), evaluating(model.method):
            seen = _along(model, model.noise(0, ROWS, seed).to(device), cond)
    except ForeignError:
        return None
    return witness_of(torch.stack(seen, dim=1))
