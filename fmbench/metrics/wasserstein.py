"""The 2-Wasserstein distance of samples to the reference, with the interval that one solve gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import Z95, deletions, enclosing, spread
from fmbench.statistics.samples import checked_samples
from fmbench.transport.distances import squared_distances
from fmbench.transport.exact import simplex, wasserstein2


def wasserstein2_estimate(x: np.ndarray, y: np.ndarray, fresh_reference: bool = False, **details: Any) -> Estimate:
    """:func:`wasserstein2` with a 95 % interval for its *expectation at these sizes*, from the one solve.

    The interval does not remove the bias: an empirical W2 is larger than that of the distributions. Moving a little
    mass onto ``x_i`` changes W2^2 by its Kantorovich potential ``f_i``, so the variance of W2^2 is ``var f / n``, plus
    ``var g / m`` when ``y`` is as random as ``x`` (del Barrio & Loubes, Ann. Probab. 47, 2019, for the limit law); the
    interval for the root follows by the delta method and is cut at zero. None when the sets coincide or have one point.

    Measured on Gaussians, n = 100, d = 2, 6 and 16: 95 to 99 % with a fixed reference, 94 to 99 % with a fresh one, wide by
    1.3 to 1.5 when both distributions agree (their limit has no linear part). In one dimension 92 to 97 %.
    The width agrees with a delete-a-group jackknife, which needs 20 solves, to a few per cent. In the place of its values stand the lower
    bounds that the potentials prove for the rows that are left: means of ``f`` and ``g`` over these.

    Raises ValueError for unusable samples, RuntimeError when the solver stops early.
    """
    x, y = checked_samples(x, y)
    plan = simplex(squared_distances(x, y))
    value = plan.distance(x, y)
    if value == 0 or min(len(x), len(y)) < 2:
        return Estimate(value, None, len(x), details=details)
    assert plan.potentials is not None
    f, g = plan.potentials
    error = math.hypot(spread(f) / math.sqrt(len(x)), spread(g) / math.sqrt(len(y)) if fresh_reference else 0.0)
    half = Z95 * error / (2 * value)
    partial = tuple(
        math.sqrt(max(float(f[a].mean() + (g[b] if fresh_reference else g).mean()), 0.0))
        for a, b in deletions(len(x), len(y) if fresh_reference else None)
    )
    ci = enclosing(value, value - half, value + half, NON_NEGATIVE)
    return Estimate(value, ci, len(x), details=details, replicates=partial)


def measure(evidence: Evidence) -> Estimate:
    """W2 between the samples and the reference; with a single evaluation seed the interval of
    :func:`wasserstein2_estimate`, else the spread over seeds gives it.
    """
    details = {"reference_sha256": evidence.reference_sha256, "reference_n": len(evidence.reference)}
    if evidence.only_seed:
        return wasserstein2_estimate(evidence.samples, evidence.reference, evidence.fresh_reference, **details)
    return Estimate(wasserstein2(evidence.samples, evidence.reference), None, len(evidence.samples), details=details)
