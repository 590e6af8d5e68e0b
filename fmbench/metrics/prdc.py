"""Precision and recall (Kynkaanniemi et al., arXiv:1904.06991), density and coverage (Naeem et al., arXiv:2002.09797).

With ``B(r)`` the ball around a real sample that reaches to its k-th nearest other real sample, and likewise around
generated samples ``g``:

- precision: fraction of generated samples inside any real ball; recall: fraction of real samples inside any generated
ball; - density: mean number of real balls around a generated sample, over k (1 in expectation for a perfect model, can
exceed it); - coverage: fraction of real balls that hold a generated sample.

Recall and coverage depend on the number of samples: compare at equal n only. The ``prdc`` package uses k = 5 and open
balls (``<``, the default here); Kynkaanniemi's code uses k = 3 and closed balls (``<=``). The two differ for ties only:
exact duplicates and copies of the training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmbench.metrics.base import SampleContext, checked_samples, mean_estimate
from fmbench.metrics.neighbours import BLOCK, nearest, squared_distances
from fmbench.result import Estimate

TIE = 1e-12
"""Squared distances that differ by less than this times the largest squared norm are ties: round-off cannot tell them
apart.
"""


@dataclass(frozen=True)
class Manifolds:
    """What every single sample contributes.

    Attributes:
        inside_real: (n,) whether a generated sample lies in a real ball; precision is its mean.
        real_balls: (n,) number of real balls around a generated sample over k; density is its mean.
        inside_generated: (m,) whether a real sample lies in a generated ball; recall is its mean.
        covered: (m,) whether a real ball holds a generated sample; coverage is its mean.
    """

    inside_real: np.ndarray
    real_balls: np.ndarray
    inside_generated: np.ndarray
    covered: np.ndarray

    @property
    def precision(self) -> float:
        """In [0, 1]."""
        return float(self.inside_real.mean())

    @property
    def recall(self) -> float:
        """In [0, 1]."""
        return float(self.inside_generated.mean())

    @property
    def density(self) -> float:
        """At least 0, about 1 for a perfect model."""
        return float(self.real_balls.mean())

    @property
    def coverage(self) -> float:
        """In [0, 1], about ``1 - 2^-k`` for a perfect model and as many generated as real samples."""
        return float(self.covered.mean())


def prdc(generated: np.ndarray, real: np.ndarray, k: int = 5, closed: bool = False, block: int = BLOCK) -> Manifolds:
    """Precision, recall, density and coverage of (n, d) generated against (m, d) real samples.

    Args:
        generated, real: samples or features.
        k: neighbours that set the radius of a ball, below both n and m.
        closed: whether a sample at exactly the radius is inside.
        block: generated samples per block of the distance matrix.

    Raises ValueError in one line for wrong shapes, values that are not finite, or k outside [1, min(n, m)).
    """
    generated, real = checked_samples(generated, real, least=2)
    if not 1 <= k < min(len(generated), len(real)):
        least = min(len(generated), len(real))
        raise ValueError(
            f"k must be at least 1 and less than {least}, the number of samples on the smaller side, got {k}"
        )
    offset = real.mean(axis=0)
    generated, real = generated - offset, real - offset
    largest = max(float((a**2).sum(axis=1).max()) for a in (generated, real))
    slack = TIE * largest if closed else -TIE * largest
    real_radius = nearest(real, k=k).squared[:, -1] + slack
    generated_radius = nearest(generated, k=k).squared[:, -1] + slack
    real_balls = np.empty(len(generated))
    inside_generated, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for start in range(0, len(generated), block):
        rows = slice(start, start + block)
        distances = squared_distances(generated[rows], real)
        in_real = distances < real_radius
        real_balls[rows] = in_real.sum(axis=1) / k
        covered |= in_real.any(axis=0)
        inside_generated |= (distances < generated_radius[rows, None]).any(axis=0)
    return Manifolds(real_balls > 0, real_balls, inside_generated, covered)


def _measure(context: SampleContext, quantity: str, k: int = 5) -> Estimate:
    if context.extract is None or context.reference_features is None:
        manifolds = prdc(context.samples, context.reference, k)
    else:
        manifolds = prdc(context.features, context.reference_features, k)
    return mean_estimate(getattr(manifolds, quantity), k=k, **context.details)


def precision(context: SampleContext) -> Estimate:
    """Precision with k = 5; normal interval over generated samples, the balls held fixed."""
    return _measure(context, "inside_real")


def recall(context: SampleContext) -> Estimate:
    """Recall with k = 5; normal interval over real samples, the balls held fixed."""
    return _measure(context, "inside_generated")


def density(context: SampleContext) -> Estimate:
    """Density with k = 5; normal interval over generated samples, the balls held fixed."""
    return _measure(context, "real_balls")


def coverage(context: SampleContext) -> Estimate:
    """Coverage with k = 5; normal interval over real samples, the balls held fixed."""
    return _measure(context, "covered")
