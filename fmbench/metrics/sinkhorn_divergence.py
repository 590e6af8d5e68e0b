"""The Sinkhorn divergence of samples to the reference."""

from __future__ import annotations

from fmbench.metrics.base import SampleContext
from fmbench.result import Estimate
from fmbench.transport.entropic import sinkhorn_divergence
from fmbench.transport.sinkhorn_newton import sinkhorn_newton


def measure(context: SampleContext) -> Estimate:
    """Sinkhorn divergence of the samples to the reference, epsilon a twentieth of the mean squared distance between two real points.

    The mean squared distance of a cloud to itself is twice its total variance, so epsilon does not depend on the samples.
    """
    spread = 2 * float(context.reference.var(axis=0).sum())
    epsilon = spread / 20
    value = sinkhorn_divergence(context.samples, context.reference, epsilon, sinkhorn_newton)
    details = {"reference_sha256": context.reference_sha256, "epsilon": epsilon}
    return Estimate(value, None, len(context.samples), details=details)
