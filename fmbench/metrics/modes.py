"""Mode coverage and mode weights of samples from a Gaussian mixture whose components are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.ranges import UNIT
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import jackknife_estimate
from fmbench.statistics.samples import checked_samples


@dataclass(frozen=True)
class Modes:
    """How samples distribute over the components of a mixture.

    Attributes:
        weights: (K,) mean posterior probability of every component; its expectation is the true weight for exact
            samples,
            however much the components overlap.
        inside: (K,) fraction of all samples that belong to a component and lie inside its ellipsoid.
        covered: (K,) whether a component is covered.
        coverage: fraction of covered components.
        weight_error: total variation ``1/2 sum_k |weights_k - w_k|`` in [0, 1], about ``sum_k sqrt(w_k / (2 pi n))`` at
            best from n exact samples.
        high_quality: fraction of samples inside the ellipsoid of their component.
    """

    weights: np.ndarray
    inside: np.ndarray
    covered: np.ndarray
    coverage: float
    weight_error: float
    high_quality: float


def _orthogonal(frame: np.ndarray, dim: int) -> np.ndarray:
    """The frame in float64. Raises ValueError unless its columns are orthonormal to what float32 rounds off."""
    frame = np.asarray(frame, dtype=np.float64)
    if frame.shape != (dim, dim):
        raise ValueError(f"frame must be a {dim} x {dim} matrix, got shape {frame.shape}")
    if not (error := np.abs(frame.T @ frame - np.eye(dim)).max()) < 1e-5:
        raise ValueError(f"frame must be orthogonal, but Q^T Q differs from the identity by {error:.3g}")
    return frame


@dataclass(frozen=True)
class Assigned:
    """Samples assigned to components, a row each.

    Attributes:
        posterior: (n, K) probabilities of the components.
        component: (n,) the most probable one.
        good: (n,) whether a sample lies inside its ellipsoid.
        weight: (K,) true weights, of sum 1.
        due: (K,) share of all samples from which on a component is covered.
    """

    posterior: np.ndarray
    component: np.ndarray
    good: np.ndarray
    weight: np.ndarray
    due: np.ndarray

    def modes(self, rows: np.ndarray | slice = slice(None)) -> Modes:
        """What the chosen samples amount to."""
        component, good = self.component[rows], self.good[rows]
        inside = np.bincount(component[good], minlength=len(self.weight)) / len(component)
        observed, covered = self.posterior[rows].mean(axis=0), inside >= self.due
        error = min(float(np.abs(observed - self.weight).sum() / 2), 1.0)  # of rounding
        return Modes(observed, inside, covered, float(covered.mean()), error, float(good.mean()))


def modes(
    x: np.ndarray,
    means: np.ndarray,
    stds: np.ndarray | float,
    weights: np.ndarray | None = None,
    frame: np.ndarray | None = None,
    level: float = 0.99,
    share: float = 0.1,
) -> Modes:
    """Assign samples to the components of ``sum_k w_k N(Q m_k, Q diag(s_k^2) Q^T)`` and compare with what it promises.

    A sample belongs to its most probable component and is of high quality inside the ellipsoid that holds ``level`` of
    that component (in 2-D, three standard deviations hold 0.989: the criterion of VEEGAN, arXiv:1705.07761, which does
    not carry over to more dimensions). A component is covered when its ellipsoid has at least ``share`` of the samples
    that are due; "at least one sample" would depend on n.

    Args:
        x: (n, D) samples.
        means: (K, D) component means, in the frame.
        stds: positive standard deviations, (K, D) or what broadcasts to it, in the frame.
        weights: (K,) positive weights, normalised here; uniform by default.
        frame: orthogonal (D, D) matrix Q; identity by default.
        level: probability content of a component's ellipsoid, in (0, 1).
        share: least share of the expected number of samples, in (0, 1].

    Raises ValueError in one line for wrong shapes, values that are not finite, stds or weights that are not positive,
    a frame that is not orthogonal, and level or share out of range.
    """
    return assigned(x, means, stds, weights, frame, level, share).modes()


def assigned(
    x: np.ndarray,
    means: np.ndarray,
    stds: np.ndarray | float,
    weights: np.ndarray | None = None,
    frame: np.ndarray | None = None,
    level: float = 0.99,
    share: float = 0.1,
) -> Assigned:
    """The assignment of samples to components. Arguments and errors: :func:`modes`."""
    from scipy.special import gammaincinv, softmax

    x, means = checked_samples(x, means)
    scale = np.broadcast_to(np.asarray(stds, dtype=np.float64), means.shape)
    weight = np.ones(len(means)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (scale > 0).all():
        raise ValueError(f"stds must be positive, got {scale.min()}; a point mass has no posterior")
    if weight.shape != (len(means),) or not (weight > 0).all():
        raise ValueError(f"weights must be {len(means)} positive numbers, got {weight.tolist()}")
    if not 0 < level < 1 or not 0 < share <= 1:
        raise ValueError(f"level must be in (0, 1) and share in (0, 1], got {level} and {share}")
    weight = weight / weight.sum()
    y = x if frame is None else x @ _orthogonal(frame, x.shape[1])
    squared = np.stack([(((y - m) / s) ** 2).sum(axis=1) for m, s in zip(means, scale, strict=True)], axis=1)
    posterior = softmax(np.log(weight) - np.log(scale).sum(axis=1) - squared / 2, axis=1)
    component = posterior.argmax(axis=1)
    good = squared[np.arange(len(x)), component] <= 2 * gammaincinv(x.shape[1] / 2, level)  # quantile of chi^2
    return Assigned(posterior, component, good, weight, share * level * weight)


def _measure(evidence: Evidence, quantity: str) -> Estimate:
    target = evidence.mixture
    frame = None if target.frame is None else target.frame.numpy()
    known = (target.means.numpy(), target.stds.numpy(), target.weights.numpy(), frame)
    found = evidence.once("modes", lambda: assigned(evidence.samples, *known))
    share = lambda rows: getattr(found.modes(rows), quantity)  # noqa: E731
    return jackknife_estimate(share, len(evidence.samples), bounds=UNIT)


def measure_coverage(evidence: Evidence) -> Estimate:
    """Share of the target's components that are covered."""
    return _measure(evidence, "coverage")


def measure_weights(evidence: Evidence) -> Estimate:
    """Total variation between the weights of the components and those of the samples."""
    return _measure(evidence, "weight_error")
