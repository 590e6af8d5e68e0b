"""What the harness hands to a sample metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from fmbench.tasks.mixture import GaussianMixture

QUADRATIC = 10_000
"""Most samples of each set that metrics on all pairs look at."""
T = TypeVar("T")


class Shared:
    """Something that several metrics look at, and what the first of them made of it."""

    @cached_property
    def made(self) -> dict[str, Any]:
        """What :meth:`once` keeps."""
        return {}

    def once(self, key: str, make: Callable[[], T]) -> T:
        """``make()`` for the first metric that asks for ``key``, the same again for the others."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


@dataclass
class SampleContext(Shared):
    """Samples of one sampler and one evaluation seed, beside what they are compared with.

    Attributes:
        kind: kind of the task, ``vector`` or ``image``.
        seed: evaluation seed.
        samples: (n, d) float64, flattened.
        real: (m, d) real samples, or how to get them: pictures that no metric asks for are never read. See ``reference``.
        reference_sha256: hash of the reference samples.
        endpoints: (k, d) reference solutions from the same first k noises, None without a velocity field.
        extract: features of flattened samples, (n, d) -> (n, f), None for vector tasks.
        extractor: name and hash of the feature extractor.
        reference_features: (m, f) features of the reference.
        only_seed: whether this is the protocol's only seed, so that the interval must come from these samples alone.
        fresh_reference: whether the reference was drawn for this seed from an endless target, so that the interval must
            cover its randomness too. A finite data set is part of the metric's definition: intervals hold given it.
        heldout: (k, d) real samples kept from training, for finite data sets.
        mixture: the target as a Gaussian mixture where it is one.
        classify: class logits of flattened samples, (n, d) -> (n, c) or None where the extractor is no classifier.
    """

    kind: str
    seed: int
    samples: np.ndarray
    real: np.ndarray | Callable[[], np.ndarray]
    reference_sha256: str
    endpoints: np.ndarray | None = None
    extract: Callable[[np.ndarray], np.ndarray] | None = None
    extractor: dict[str, Any] | None = None
    reference_features: np.ndarray | None = None
    only_seed: bool = True
    fresh_reference: bool = False
    heldout: np.ndarray | None = None
    mixture: GaussianMixture | None = None
    classify: Callable[[np.ndarray], np.ndarray | None] | None = None

    @cached_property
    def reference(self) -> np.ndarray:
        """(m, d) real samples."""
        return self.real() if callable(self.real) else self.real

    @cached_property
    def features(self) -> np.ndarray:
        """Features of the samples."""
        assert self.extract is not None
        return self.extract(self.samples)

    @property
    def quadratic(self) -> tuple[np.ndarray, np.ndarray]:
        """Generated and real features (samples without an extractor) for metrics whose work grows with n^2: the first 10,000 each.

        Rows of a finite data set stand in the order of their hashes, so its first ones are as good as any.
        """
        if self.extract is None or self.reference_features is None:
            return self.samples[:QUADRATIC], self.reference[:QUADRATIC]
        return self.features[:QUADRATIC], self.reference_features[:QUADRATIC]

    @property
    def details(self) -> dict[str, Any]:
        """What pins a feature metric: extractor and reference."""
        return {
            "extractor": self.extractor,
            "reference_sha256": self.reference_sha256,
            "reference_n": len(self.reference if self.reference_features is None else self.reference_features),
        }
