"""Frechet distance between Gaussians fitted to features (FID when the features are Inception's), and its extrapolation
to n = infinity.

``FD = |mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson & Landau 1982; Heusel et al., arXiv:1706.08500),
everything in float64. With ``C1 = F F^T`` the cross term is ``tr (C1 C2)^(1/2) = sum_i sqrt(lambda_i(F^T C2 F))``: one
pivoted Cholesky of the covariance of lower rank and the eigenvalues of one symmetric matrix. No matrix square root is
formed, so singular covariances (fewer samples than features) lose no accuracy and nothing complex ever appears.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import GROUPS, deletions, jackknife_estimate, squared_interval
from fmbench.statistics.moments import Moments, without_each
from fmbench.statistics.samples import checked, checked_samples, refuse_vanishing

ROUND_OFF = 1e-8
"""Asymmetry and negative curvature of a covariance that pass for round-off, relative to its largest entry."""
POINTS = 15
"""Sample sizes that FID_infinity is extrapolated from."""
EXTREME = (1e-70, 1e70)
"""Covariances whose largest entry lies outside are scaled before they are multiplied."""


def covariance_factor(cov: np.ndarray, name: str = "covariance") -> np.ndarray:
    """``F`` of shape (d, rank) with ``cov = F F^T``, by Cholesky with diagonal pivoting (LAPACK dpstrf), which reveals
    the rank.

    Raises ValueError in one line when ``cov`` is not square, finite, symmetric and positive semi-definite up to
    :data:`ROUND_OFF`.
    """
    from scipy.linalg import get_lapack_funcs

    cov = np.asarray(cov, dtype=np.float64)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1]:
        raise ValueError(f"{name} must be a square matrix, got shape {cov.shape}")
    if not np.isfinite(cov).all():
        raise ValueError(
            f"{name} has {int((~np.isfinite(cov)).sum())} NaN or infinite entries; check the samples it comes from"
        )
    scale = float(np.abs(cov).max(initial=0.0))
    asymmetry = float(np.abs(cov - cov.T).max(initial=0.0))
    if asymmetry > ROUND_OFF * scale:
        raise ValueError(
            f"{name} must be symmetric, entries (i, j) and (j, i) differ by up to {asymmetry:.3g}; pass (C + C^T) / 2"
        )
    (pstrf,) = get_lapack_funcs(("pstrf",), (cov,))
    packed, pivots, rank, _ = pstrf(cov, lower=1)
    factor = np.zeros((len(cov), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    if rank < len(cov):
        residual = cov - factor @ factor.T
        worst = float(np.abs(residual).max())
        if worst > ROUND_OFF * scale:
            raise ValueError(
                f"{name} must be positive semi-definite, it is not by {worst:.3g} (largest entry {scale:.3g})"
            )
    return factor


@dataclass(frozen=True, eq=False)
class Factored:
    """A covariance ready for many distances.

    Attributes:
        cov: (d, d), divided by ``scale``.
        factor: its :func:`covariance_factor`.
        scale: a power of four, 1 but for extreme covariances.
    """

    cov: np.ndarray
    factor: np.ndarray
    scale: float

    @classmethod
    def of(cls, cov: np.ndarray, name: str = "covariance") -> Factored:
        """Of a (d, d) covariance. Raises ValueError like :func:`covariance_factor`."""
        scale = _power_of_four(cov)
        cov = cov / scale
        return cls(cov, covariance_factor(cov, name), scale)


def frechet_distance(
    mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray, factored2: Factored | None = None
) -> float:
    """Squared 2-Wasserstein distance between N(mu1, cov1) and N(mu2, cov2), in squared units of the features.

    Args:
        mu1, mu2: (d,) means.
        cov1, cov2: (d, d) symmetric positive semi-definite covariances of any rank.
        factored2: ``cov2`` factored, where that is done already.

    Raises ValueError in one line for shapes that do not match and for covariances that are not symmetric or not
    positive semi-definite beyond round-off.
    """
    mu1, mu2 = np.asarray(mu1, dtype=np.float64), np.asarray(mu2, dtype=np.float64)
    cov1, cov2 = np.asarray(cov1, dtype=np.float64), np.asarray(cov2, dtype=np.float64)
    if mu1.ndim != 1 or mu1.shape != mu2.shape or cov1.shape != mu1.shape * 2 or cov2.shape != mu1.shape * 2:
        shapes = f"{mu1.shape}, {cov1.shape}, {mu2.shape}, {cov2.shape}"
        raise ValueError(f"means must be (d,) and covariances (d, d) of one d, got shapes {shapes}")
    if not (np.isfinite(mu1).all() and np.isfinite(mu2).all()):
        raise ValueError("means must be finite, got NaN or infinite entries; check the samples they come from")
    distance = (
        ((mu1 - mu2) ** 2).sum()
        + np.trace(cov1)
        + np.trace(cov2)
        - 2 * _cross_term(Factored.of(cov1, "cov1"), factored2 or Factored.of(cov2, "cov2"))
    )
    return max(float(distance), 0.0)


def _power_of_four(cov: np.ndarray) -> float:
    """What to divide a covariance by so that products of its entries stay in the range of float64; 1 for ordinary ones."""
    largest = float(np.abs(cov).max(initial=0.0))
    extreme = 0 < largest <= EXTREME[0] or EXTREME[1] <= largest < math.inf
    return 4.0 ** round(math.log(largest, 4)) if extreme else 1.0


def _cross_term(one: Factored, two: Factored) -> float:
    """``tr (C1 C2)^(1/2)``, from the factor of lower rank."""
    factor, other = one.factor, two.cov
    if two.factor.shape[1] < factor.shape[1]:
        factor, other = two.factor, one.cov
    inner = factor.T @ other @ factor
    if not inner.size:
        return 0.0
    # Clipping is safe: both covariances have been found positive semi-definite, so a negative eigenvalue is round-off.
    roots = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0.0))
    return float(roots.sum()) * math.sqrt(one.scale) * math.sqrt(two.scale)


def between(generated: Moments, reference: Moments, *, factored: Factored | None = None) -> float:
    """Frechet distance between the Gaussians of two sets of moments; ``factored`` is the covariance of the reference where that is done.

    Raises ValueError like :func:`frechet_distance`.
    """
    return frechet_distance(generated.mean, generated.cov, reference.mean, reference.cov, factored)


def fid_infinity(
    features: np.ndarray,
    reference: Moments,
    seed: int = 0,
    points: int = POINTS,
    smallest: int | None = None,
    factored: Factored | None = None,
) -> float:
    """Frechet distance extrapolated to infinitely many generated samples (Chong & Forsyth, arXiv:1911.07023,
    FID_infinity).

    The bias of the estimate is proportional to 1/n. The distance is computed for ``points`` evenly spaced sample sizes
    from ``smallest`` to n, and the least-squares line in 1/n is read off at 0. The bias from the finite reference stays. The
    result can be slightly negative for a perfect model. The subsets are nested, the first rows of one random order: with fresh
    ones, as in the paper, each call draws noise of its own, which a jackknife over calls takes for that of the samples.

    Args:
        features: (n, d) features of generated samples.
        reference: moments of the real features.
        seed: seed of the order.
        points: number of sample sizes.
        smallest: smallest size, n / 10 by default (the paper's 5,000 of 50,000). Below d the 1/n law does not hold.
        factored: covariance of the reference factored, where that is done already.

    Raises ValueError in one line for fewer than two points or sizes outside [2, n).
    """
    features = checked("features", features, least=3)
    if features.shape[1] != len(reference.mean):
        raise ValueError(
            f"features have {features.shape[1]} dimensions and the reference {len(reference.mean)}; use one extractor"
        )
    n = len(features)
    smallest = max(n // 10, 2) if smallest is None else smallest
    if points < 2:
        raise ValueError(f"points must be at least 2 to fit a line, got {points}")
    if not 2 <= smallest < n:
        raise ValueError(f"smallest must be at least 2 and less than the {n} samples given, got {smallest}")
    shuffled = features[np.random.default_rng(seed).permutation(n)]
    return _extrapolated(shuffled, reference, smallest, points, factored)


def _extrapolated(
    shuffled: np.ndarray, reference: Moments, smallest: int, points: int, factored: Factored | None
) -> float:
    """The line through the distances of the first ``smallest`` to all rows, at 1/n = 0."""
    sizes = np.linspace(smallest, len(shuffled), points).round().astype(int)
    subsets = (shuffled[:size] for size in sizes)
    distances = np.array([between(Moments.of(subset), reference, factored=factored) for subset in subsets])
    largest = float(distances.max())
    unit = largest if largest > EXTREME[1] else 1.0
    _, intercept = np.polyfit(1.0 / sizes, distances / unit, 1)
    return float(intercept) * unit


def _reference_factored(evidence: Evidence) -> Factored:
    return evidence.real.once(
        "factored", lambda: Factored.of(np.asarray(evidence.real.moments.cov, np.float64), "cov2")
    )


def measure(evidence: Evidence) -> Estimate:
    """Frechet distance of the features of generated samples to those of the reference, biased upwards by O(1/n) as
    every FID is.

    The interval is for its expectation at this n, by a delete-a-group jackknife on the root of the distance over the
    generated samples with the reference held fixed, or over both if the reference is fresh. Measured on Gaussians, d = 2
    and 6, n = 100: 94 to 96 % with a fixed reference, 93 to 98 % with a fresh one; conservative, 99.7 %, when both
    distributions and the reference's randomness agree. With several evaluation seeds theirs replaces it.
    """
    return _measured(evidence, evidence.features)


def measure_at_heldout(evidence: Evidence) -> Estimate:
    """The same of as many samples as the task has held-out points, the first ones: every FID falls with n, so this is the number that can be
    compared with that of real data, of which there are no more."""
    features, _ = checked_samples(evidence.features, evidence.features, least=2)
    return _measured(evidence, features[: len(evidence.heldout)])


def _measured(evidence: Evidence, features: np.ndarray) -> Estimate:
    """Frechet distance of some features to the reference with its interval."""
    reference, fresh_reference = evidence.real.moments, evidence.fresh_reference
    m = evidence.real.n
    if min(len(features), len(features) if m is None else m) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(features)} generated and {m} real")
    if features.shape[1] != len(reference.mean):
        raise ValueError(
            f"generated samples have {features.shape[1]} features and real ones {len(reference.mean)}; use one extractor"
        )
    factored = _reference_factored(evidence)
    value = between(Moments.of(features), reference, factored=factored)
    if value == 0:
        refuse_vanishing(features, reference.mean[None] if evidence.real.stated else evidence.reference_features)
    left = deletions(len(features), m if fresh_reference else None) if evidence.only_seed else []
    partial: list[float] = []
    if left:
        without, fresh = without_each(features, [~kept for kept, _ in left]), repeat(reference)
        if fresh_reference:
            fresh = without_each(evidence.reference_features, [~kept for _, kept in left])
        known = None if fresh_reference else factored
        partial = [between(one, other, factored=known) for one, other in zip(without, fresh, strict=False)]
    ci = squared_interval(value, np.array(partial), bounds=NON_NEGATIVE)
    return Estimate(value, ci, len(features), details=evidence.details, replicates=tuple(partial))


def measure_infinity(evidence: Evidence) -> Estimate:
    """FID_infinity of the features of generated samples, delete-a-group jackknife interval over them from a single evaluation seed.

    All replicates use one order of the samples, so that they differ by the group that is left out and by nothing else.
    """
    features, _ = checked_samples(evidence.features, evidence.reference_features, least=3)
    reference, factored = evidence.real.moments, _reference_factored(evidence)
    order = np.random.default_rng(evidence.seed).permutation(len(features))

    def extrapolated(rows: np.ndarray) -> float:
        kept = np.zeros(len(features), dtype=bool)
        kept[rows] = True
        shuffled = features[order[kept[order]]]
        return _extrapolated(shuffled, reference, max(len(shuffled) // 10, 2), POINTS, factored)

    return jackknife_estimate(extrapolated, len(features), GROUPS if evidence.only_seed else 1, **evidence.details)
