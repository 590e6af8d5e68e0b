"""Calls a metric as the harness calls it: by its registered name, on a context."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fmbench.metrics.base import SampleContext
from fmbench.metrics.flow import FlowContext, reference_solve
from fmbench.metrics.probe import Probe
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Velocity


def value_of(name: str, estimate: Estimate) -> float:
    """The number of an estimate. Raises ValueError with the metric's own reason when there is none."""
    if estimate.value is None:
        raise ValueError(f"{name} gave no value: {estimate.reason}")
    return estimate.value


def on_samples(name: str, samples: np.ndarray, reference: np.ndarray, **more: Any) -> float:
    """A registered sample metric on (n, d) samples against (m, d) reference samples; they are their own features.

    ``more`` are further fields of :class:`~fmbench.metrics.base.SampleContext`, e.g. ``heldout``.
    """
    context = SampleContext(
        kind="image",
        samples=samples,
        real=reference,
        reference_sha256="",
        extract=lambda x: x,
        extractor={"name": "identity"},
        reference_features=reference,
        only_seed=False,
        **{"seed": 0, **more},
    )
    return value_of(name, METRICS[name].resolve()(context))


def scene(velocity: Velocity, x0: Points, steps: int, w2_squared: float = 1.0, **more: Any) -> FlowContext:
    """A field solved from ``x0`` (n, *shape) and probed there, W2^2 of the task known exactly.

    ``more`` are further fields of :class:`~fmbench.metrics.probe.Probe`; real points are ``x0`` and the field's seed is 0 by default.
    """
    with torch.no_grad():
        solve = reference_solve(velocity, x0, steps)
    given = {"seed": 0, "data": x0, "data_velocity": velocity, **more}
    return FlowContext(solve, solve.cost, (w2_squared, 0.0), Probe(velocity, x0, steps, **given))


def on_flow(name: str, context: FlowContext) -> float:
    """A registered flow metric on a scene."""
    return value_of(name, METRICS[name].resolve()(context))
