"""Mean and covariance of features: all that the Frechet distance sees of a reference, computed here or stated by somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fmbench.metrics.frechet import covariance_factor
from fmbench.statistics.moments import Moments
from fmbench.storage.files import sha256


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (f,) and covariance (f, f) of features, float64.

    Attributes:
        mean: of each feature.
        cov: unbiased, symmetric and positive semi-definite up to rounding.
        n: images they are of, None where nobody says.
        origin: the file or address they came from, empty when they were computed here.
    """

    mean: np.ndarray
    cov: np.ndarray
    n: int | None = None
    origin: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the float64 numbers, mean first."""
        return sha256(np.concatenate([self.mean.ravel(), self.cov.ravel()]))


def statistics_of(batches: Iterator[np.ndarray]) -> Statistics:
    """Statistics of features that come in batches (b, f), one in memory at a time.

    Raises ValueError without features, for one that stands alone, and for values that are not finite.
    """
    total: Moments | None = None
    for features in batches:
        part = Moments.of(features)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no images were given, so there are no statistics")
    return Statistics(total.mean, total.cov, total.n)


def stated_statistics(mu: np.ndarray, sigma: np.ndarray, origin: str) -> Statistics:
    """Statistics that a file or a page states, checked: ``mu`` (f,) finite, ``sigma`` (f, f) finite, symmetric and positive semi-definite.

    Raises ValueError in one line that names ``origin``.
    """
    for name, array in (("mu", mu), ("sigma", sigma)):
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{origin}: {name} holds {array.dtype}, expected real numbers")
    if mu.ndim != 1 or not len(mu) or sigma.shape != mu.shape * 2:
        raise ValueError(
            f"{origin}: mu has shape {mu.shape} and sigma {sigma.shape}; a mean (f,) and a covariance (f, f) are needed"
        )
    mean, cov = mu.astype(np.float64), sigma.astype(np.float64)
    if bad := int((~np.isfinite(mean)).sum()):
        raise ValueError(f"{origin}: mu has {bad} NaN or infinite values")
    try:
        covariance_factor(cov, "sigma")
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None
    return Statistics(mean, cov, origin=origin)
