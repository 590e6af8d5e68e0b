"""Monge gap: how far a map is from optimal transport between what it connects (Uscidda and Cuturi, 2302.04953).

    M(T) = E|x - T(x)|^2 - W2^2(mu, T#mu)

It is zero exactly for optimal maps (gradients of convex functions), never negative, and a squared length. Applied to
the noise and the samples of a flow it says how much of the transport cost is wasted.

The entropic gap replaces W2^2 by the entropic cost. That adds an offset even for optimal maps: with
``<P, C> - epsilon H(P)`` a perfect map scores between ``epsilon log n`` and ``2 epsilon log n``, and with the
Kullback-Leibler convention the gap can be negative. Here the offset is removed as in the Sinkhorn divergence, by the
entropic cost of each set with itself, whatever the convention:

    M_eps(T) = E|x - T(x)|^2 - S_eps(mu, T#mu)

Translations then score zero at every epsilon, and M_eps goes to M as epsilon goes to 0.
"""

from __future__ import annotations

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import over_seeds
from fmbench.statistics.samples import checked_samples
from fmbench.transport.entropic import sinkhorn_divergence
from fmbench.transport.exact import wasserstein2
from fmbench.transport.sinkhorn_newton import sinkhorn_newton

GROUPS = 4
LARGEST_GROUP = 1024


def monge_gap(x: np.ndarray, y_mapped: np.ndarray, epsilon: float | None = None) -> float:
    """Monge gap of the map from row i of ``x`` to row i of ``y_mapped``, both (n, d), in squared units of the samples.

    Args:
        x, y_mapped: paired points.
        epsilon: regularisation of the entropic gap, a squared length; the exact gap of the two sets when not given.

    Raises ValueError for unusable or unpaired samples or an epsilon that is not positive, RuntimeError when a solver
    does not converge.
    """
    x, y = checked_samples(x, y_mapped)
    if len(x) != len(y):
        raise ValueError(f"x and y_mapped must be paired, got {len(x)} and {len(y)} rows")
    cost = float(((x - y) ** 2).sum(axis=1).mean())
    if epsilon is None:
        return max(0.0, cost - wasserstein2(x, y) ** 2)  # the pairing itself is a plan: below zero is rounding
    return cost - sinkhorn_divergence(x, y, epsilon, sinkhorn_newton)


def measure(evidence: Evidence) -> Estimate:
    """Exact gap of the reference solve's map from noise to sample: mean over four groups of up to 1024 pairs, Student t over groups.

    A group sees only its own points, so in many dimensions, where a better pairing is hard to come by, the gap is underestimated.
    """
    solve = evidence.trajectories
    size = min(LARGEST_GROUP, len(solve.start) // GROUPS)
    if size < 2:
        return Estimate.missing(f"{len(solve.start)} trajectories are too few for {GROUPS} groups of two")
    start, stop = (x.flatten(1).double().numpy() for x in (solve.start, solve.stop))
    rows = [slice(k * size, (k + 1) * size) for k in range(GROUPS)]
    gaps = [Estimate(monge_gap(start[r], stop[r]), None, size, details=evidence.solver_details) for r in rows]
    joint = over_seeds(gaps, NON_NEGATIVE)
    return Estimate(joint.value, joint.ci, joint.n, details={**evidence.solver_details, "group": size, "plan": "exact"})
