"""Couplings: pairings of source and data points inside a minibatch.

Every coupling returns, for a batch of ``n`` pairs, the indices ``(i, j)`` such that ``(x0[i], x1[j])`` are the new pairs; labels travel
with ``j``. Transport problems are solved on the CPU in float64 with the squared Euclidean cost (2302.00482, algorithm 2).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from fmbench.shapes import Labels, Points
from fmbench.transport.distances import squared_distances
from fmbench.transport.exact import ASSIGNMENT_DIMENSION, assignment, simplex

# exp(-x) stays a normal float64 for x below 700; past this ratio the kernel underflows and the log domain is needed.
SAFE_EXPONENT = 500.0


def costs(x0: Points, x1: Points) -> np.ndarray:
    """Matrix of squared Euclidean distances, (n, m) float64, between two batches."""
    flat0, flat1 = (x.detach().flatten(1).double().cpu().numpy() for x in (x0, x1))
    return squared_distances(flat0, flat1)


def exact_pairs(x0: Points, x1: Points, labels: Labels | None = None) -> tuple[Tensor, Tensor]:
    """Optimal assignment of a minibatch under the squared Euclidean cost (OT-CFM).

    The plan between equal uniform weights is a permutation, used as one: no point is dropped or doubled, which has less
    variance than drawing pairs from the plan with replacement. From 8 dimensions on it is SciPy's assignment, which is faster than the
    network simplex; where several permutations are optimal and would make different batches it is that of the simplex in any dimension,
    so that a batch does not depend on the solver.

    Args:
        x0, x1: (n, *shape) each.
        labels: (n,) of ``x1``, where it has any.

    Raises ValueError when the sizes differ, RuntimeError when no plan is certified to be optimal.
    """
    if len(x0) != len(x1):
        raise ValueError(f"exact pairing needs batches of equal size, got {len(x0)} and {len(x1)}")
    cost = costs(x0, x1)
    high = x0[0].numel() >= ASSIGNMENT_DIMENSION and bool(np.isfinite(cost).all())
    plan = assignment(cost) if high and _one_batch(x0, x1, labels) else simplex(cost)
    return torch.arange(len(x0)), torch.from_numpy(plan.partners)


def _one_batch(x0: Points, x1: Points, labels: Labels | None) -> bool:
    """Whether equal points leave only one optimal batch: none in ``x0``, and in ``x1`` only those that agree in every bit and their label.

    A data set drawn with replacement has such points in nearly every batch: exchanging them changes no pair.
    """
    first, second = (x.detach().flatten(1).cpu().numpy() for x in (x0, x1))
    named = [0] * len(second) if labels is None else labels.tolist()
    as_numbers = [{row.tobytes() for row in points + 0.0} for points in (first, second)]  # 0 and -0 are one number
    as_bits = {(row.tobytes(), label) for row, label in zip(second, named, strict=True)}
    return len(as_numbers[0]) == len(first) and len(as_numbers[1]) == len(as_bits)


def redrawn(i: Tensor, j: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As many pairs as there are, drawn from them with replacement: torchcfm's ``sample_plan`` for a plan that is a permutation."""
    chosen = torch.randint(len(i), (len(i),), generator=generator)
    return i[chosen], j[chosen]


def entropic_plan(cost: np.ndarray, regularisation: float) -> np.ndarray:
    """Sinkhorn plan, (n, m), of ``min <P, C> - reg H(P)`` with uniform marginals.

    Raises ValueError when the regularisation is not positive, or so small that Sinkhorn's iterations do not reach the
    marginals: a plan that silently falls back to uniform is how small-sigma SB-CFM results went wrong.
    """
    import ot

    if not regularisation > 0:
        raise ValueError(f"entropic regularisation must be positive, got {regularisation}")
    a = np.full(cost.shape[0], 1.0 / cost.shape[0])
    b = np.full(cost.shape[1], 1.0 / cost.shape[1])
    # A constant shift of the cost leaves the plan unchanged and keeps the kernel in range.
    shifted = cost - cost.min()
    method = "sinkhorn" if shifted.max() < SAFE_EXPONENT * regularisation else "sinkhorn_log"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the marginals are checked below, on the plan itself
        plan = np.asarray(ot.sinkhorn(a, b, shifted, regularisation, method=method, numItermax=2000, stopThr=1e-3))
    # The last half-step satisfies the rows exactly, converged or not: the columns carry the error.
    worst = max(np.abs(plan.sum(axis=1) - a).sum(), np.abs(plan.sum(axis=0) - b).sum())
    if not worst < 0.05:  # also catches NaN
        raise ValueError(
            f"Sinkhorn did not converge (marginal error {worst:.2g}) at regularisation {regularisation:g}; raise sigma"
        )
    return plan


def entropic_pairs(x0: Points, x1: Points, regularisation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs from the entropic plan: every ``x0`` once, its partner drawn from its row of the plan (SB-CFM uses reg = 2 sigma^2)."""
    plan = torch.from_numpy(entropic_plan(costs(x0, x1), regularisation))
    partners = torch.multinomial(plan / plan.sum(dim=1, keepdim=True), 1, generator=generator).squeeze(1)
    return torch.arange(len(x0)), partners


def gibbs_weights(x0: Points, x1: Points, epsilon: float) -> Tensor:
    """Weights ``w = exp(-||x0 - x1|| / epsilon)`` of independent pairs, divided by their batch mean (W-CFM, 2507.22270).

    The cost is the Euclidean norm, not its square. Without the division the raw weights are of the order of e^-12 on images and
    vanish against Adam's epsilon; a constant factor does not change the minimiser. Returns (batch,).
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    exponent = -(x1 - x0).flatten(1).norm(dim=1) / epsilon
    return torch.softmax(exponent, dim=0) * len(x0)
