"""Truncation gap: how far a few-step sample lies from the model's own exact solution."""

from __future__ import annotations

import math

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import enclosing, mean_estimate
from fmbench.statistics.samples import checked_samples


def truncation_gap(samples: np.ndarray, endpoints: np.ndarray) -> Estimate:
    """``sqrt(E|Z1^N - Z1^ref|^2 / D)`` over pairs started from the same noise, both (n, d); 95 % interval by the delta method.

    Raises ValueError when the shapes differ or for unusable samples.
    """
    if samples.shape != endpoints.shape:
        raise ValueError(f"truncation gap needs pairs, got shapes {samples.shape} and {endpoints.shape}")
    samples, endpoints = checked_samples(samples, endpoints)
    mean = mean_estimate(((samples - endpoints) ** 2).mean(axis=1))
    assert mean.value is not None
    root = math.sqrt(mean.value)
    if mean.ci is None or root == 0:
        return Estimate(root, None, mean.n)
    half = (mean.ci[1] - mean.value) / (2 * root)
    return Estimate(root, enclosing(root, root - half, root + half, NON_NEGATIVE), mean.n)


def measure(evidence: Evidence) -> Estimate:
    """Against the reference solve of the same noise."""
    samples, endpoints = evidence.samples, evidence.endpoints
    count = min(len(endpoints), len(samples))
    return truncation_gap(samples[:count], endpoints[:count])
