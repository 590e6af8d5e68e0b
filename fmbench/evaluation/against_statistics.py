"""Samples against a reference of which nothing but mean and covariance of its features is known: the Frechet distance, and no other metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fmbench.features import Extractor
from fmbench.features.statistics import Statistics
from fmbench.metrics.frechet import frechet_distance
from fmbench.records.ranges import NON_NEGATIVE
from fmbench.records.result import Estimate
from fmbench.shapes import Points
from fmbench.statistics.intervals import deletions, squared_interval
from fmbench.statistics.moments import Moments, without_each

FRECHET = "frechet_distance"


def _features(points: Points, extractor: Extractor, reference: Statistics) -> np.ndarray:
    """Features of the samples. Raises ValueError, before they are computed, when the statistics are of another number of features."""
    width = extractor.features(points[:1]).shape[1]
    if width != len(reference.mean):
        raise ValueError(
            f"{reference.origin} holds statistics of {len(reference.mean)} features, and {extractor.name} gives {width}; "
            "name the extractor that they were made with"
        )
    return extractor.features(points)


def frechet_to(features: np.ndarray, reference: Statistics) -> tuple[float, tuple[float, float] | None]:
    """Frechet distance of features (n, f) to stated statistics, and its 95 % delete-a-group jackknife interval with the reference held fixed."""

    def distance(moments: Moments) -> float:
        return frechet_distance(moments.mean, moments.cov, reference.mean, reference.cov)

    value, left = distance(Moments.of(features)), deletions(len(features))
    without = without_each(features, [~kept for kept, _ in left]) if left else ()
    return value, squared_interval(value, np.array([distance(moments) for moments in without]), bounds=NON_NEGATIVE)


def score_against(
    points: Points, reference: Statistics, extractor: Extractor, metrics: Sequence[str]
) -> dict[str, Estimate]:
    """Estimates by name: the Frechet distance of the samples' features to the statistics, every other metric null with the reason.

    Args:
        points: (n, channels, height, width), at least two.
        reference: the statistics, of features of the same extractor, which only its user can know.
        extractor: of the samples' features.
        metrics: names wanted.

    Raises ValueError in one line when the extractor gives another number of features.
    """
    estimates = {
        name: Estimate.missing(f"only {FRECHET} is measured against statistics; compare with the pictures they are of")
        for name in metrics
    }
    if FRECHET in metrics:
        value, ci = frechet_to(_features(points, extractor, reference), reference)
        details = {
            "extractor": extractor.identity,
            "reference": "statistics",
            "reference_sha256": reference.sha256,
            "reference_n": None,
        }
        estimates[FRECHET] = Estimate(value, ci, len(points), details=details)
    return estimates
