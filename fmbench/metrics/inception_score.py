"""Inception score: how confident a classifier is on each sample and how varied its answers are over all of them.

``IS = exp E_x KL(p(y | x) || p(y))`` with ``p(y)`` the mean of the posteriors (Salimans et al., arXiv:1606.03498). It
is between 1 and the number of classes, never looks at real data, and cannot see missing variety inside a class.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import GROUPS, jackknife_estimate
from fmbench.statistics.samples import checked_samples


def mutual_information(logits: np.ndarray) -> float:
    """``H(mean p) - mean H(p)`` in nats: the logarithm of the inception score of (n, classes) logits."""
    from scipy.special import log_softmax, xlogy

    log_p = log_softmax(logits, axis=1)
    p = np.exp(log_p)
    # A class of probability 0 has log -inf and contributes nothing.
    conditional = -np.where(p > 0, p * log_p, 0.0).sum(axis=1).mean()
    marginal = p.mean(axis=0)
    return max(float(-xlogy(marginal, marginal).sum() - conditional), 0.0)


def inception_score(logits: np.ndarray, splits: int = 1) -> float:
    """Inception score in float64, averaged over ``splits`` equal parts of the samples.

    Every score is biased downwards by its finite n; the customary 10 splits make that ten times worse and serve only to
    compare with published values. Parts are interleaved (sample ``i`` in part ``i mod splits``) instead of shuffled, so
    no seed is involved; samples sorted by class stay balanced.

    Args:
        logits: (n, classes) unnormalised log probabilities; log probabilities work as well.
        splits: number of parts, at most n.

    Raises ValueError in one line for another rank, values that are not finite, or splits outside [1, n].
    """
    logits, _ = checked_samples(logits)
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits must be between 1 and the {len(logits)} samples given, got {splits}")
    return float(np.mean([_score(logits[part::splits]) for part in range(splits)]))


def _score(logits: np.ndarray) -> float:
    # Rounding must not take a score of certain and equally many answers above the number of classes.
    return min(float(np.exp(mutual_information(logits))), float(logits.shape[1]))


def inception_score_estimate(logits: np.ndarray, groups: int = GROUPS) -> Estimate:
    """Inception score over all samples with a delete-a-group jackknife interval between 1 and the number of classes.

    There is no interval from one group. Raises like :func:`inception_score`.
    """
    logits, _ = checked_samples(logits, least=2)
    bounds = (1.0, float(logits.shape[1]))
    return jackknife_estimate(lambda kept: _score(logits[kept]), len(logits), groups, bounds)


def measure(evidence: Evidence) -> Estimate:
    """Inception score with the classifier of the task's feature extractor; its interval from a single evaluation seed only."""
    estimate = inception_score_estimate(evidence.logits, GROUPS if evidence.only_seed else 1)
    return replace(estimate, details={"extractor": evidence.extractor})
