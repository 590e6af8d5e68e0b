"""The Sinkhorn divergence of samples to the reference."""

from __future__ import annotations

import math

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.result import Estimate
from fmbench.statistics.samples import checked_samples
from fmbench.transport.entropic import EntropicPlan, sinkhorn, sinkhorn_divergence
from fmbench.transport.exact import wasserstein2
from fmbench.transport.sinkhorn_newton import sinkhorn_newton

NEGLIGIBLE, TOLERABLE = 1e-7, 1e-4
"""Shares of W2^2: what the regularisation may change without being computed at all, and where its computation does not converge."""


def _least_square(x: np.ndarray, y: np.ndarray) -> float:
    """A lower bound of W2^2 from means and total spreads (Gelbrich 1990), length^2."""
    spreads = [math.sqrt(float(points.var(axis=0).sum())) for points in (x, y)]
    return float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()) + (spreads[0] - spreads[1]) ** 2


def _solve(cost: np.ndarray, epsilon: float) -> EntropicPlan:
    """By Newton's method, or by the slow sweeps where parts of the points are so far apart that its matrix is singular."""
    try:
        return sinkhorn_newton(cost, epsilon)
    except RuntimeError:
        return sinkhorn(cost, epsilon)


def measure(evidence: Evidence) -> Estimate:
    """Sinkhorn divergence of the samples to the reference, epsilon a twentieth of the mean squared distance between two real points.

    The mean squared distance of a cloud to itself is twice its total variance, so epsilon does not depend on the samples. All entropies are
    between 0 and ``log n``, so the divergence is within ``epsilon log n`` of W2^2: where that is negligible, as for a reference that is
    constant or tiny beside the distance, W2^2 is the value. Raises ValueError where neither can be computed.
    """
    x, y = checked_samples(evidence.samples, evidence.reference)
    epsilon = 2 * float((y - y[0]).var(axis=0).sum()) / 20
    within = epsilon * math.log(max(len(x), len(y), 2))
    details = {"reference_sha256": evidence.reference_sha256, "epsilon": epsilon}
    if epsilon > 0 and within > NEGLIGIBLE * _least_square(x, y):
        try:
            # The divergence is never negative: below zero is what the solver's tolerance leaves.
            value = max(sinkhorn_divergence(x, y, epsilon, _solve), 0.0)
            return Estimate(value, None, len(x), details=details)
        except RuntimeError:
            if within > TOLERABLE * _least_square(x, y):
                raise ValueError(
                    f"entropic transport does not converge at a twentieth of the reference's mean squared distance, {epsilon:.3g}; leave "
                    "out the points that are far from all others"
                ) from None
    return Estimate(wasserstein2(x, y) ** 2, None, len(x), details={**details, "plan": "exact", "within": within})
