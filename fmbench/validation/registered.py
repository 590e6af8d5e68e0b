"""Calls of metrics by their registered name on evidence, as in the harness."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fmbench.metrics.evidence import Evidence, of_flow, of_samples
from fmbench.metrics.flow import reference_solve
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

    ``more`` are further arguments of :func:`~fmbench.metrics.evidence.of_samples`, e.g. ``heldout``.
    """
    given: dict[str, Any] = {"features": lambda x: x, "only_seed": False, **more}
    return value_of(name, METRICS[name].resolve()(of_samples(samples, reference, **given)))


def scene(velocity: Velocity, x0: Points, steps: int, w2_squared: float = 1.0, **more: Any) -> Evidence:
    """A field solved from ``x0`` (n, *shape) and probed there, W2^2 of the task known exactly.

    ``more`` are further arguments of :func:`~fmbench.metrics.evidence.of_flow`; real points are ``x0`` and the seed is 0 by default.
    """
    with torch.no_grad():
        solve = reference_solve(velocity, x0, steps)
    return of_flow(velocity, x0, steps, solve, w2_squared=(w2_squared, 0.0), **more)


def on_flow(name: str, evidence: Evidence) -> float:
    """A registered flow metric on a scene."""
    return value_of(name, METRICS[name].resolve()(evidence))
