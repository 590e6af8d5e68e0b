"""Mean and covariance of features: all that the Frechet distance sees of a reference, as a file states them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmbench.metrics.frechet import covariance_factor
from fmbench.storage.files import sha256


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (f,) and covariance (f, f) of features, float64.

    Attributes:
        mean: of each feature.
        cov: unbiased, symmetric and positive semi-definite up to rounding.
        origin: the file they came from.
    """

    mean: np.ndarray
    cov: np.ndarray
    origin: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the float64 numbers, mean first."""
        return sha256(np.concatenate([self.mean.ravel(), self.cov.ravel()]))


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
