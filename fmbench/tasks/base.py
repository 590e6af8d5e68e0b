"""What a task is: a source, a target, and the fixed budget of its closed division."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fmbench.shapes import Points, squared_norm
from fmbench.tasks.mixture import GaussianMixture

LogDensity = Callable[[Points], Tensor]
"""(batch, *shape) -> log density in nats, (batch,)."""


class Distribution(Protocol):
    """Something to draw points from."""

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """``n`` independent points, (n, *shape) float32."""
        ...


@dataclass(frozen=True)
class Task:
    """One transport problem.

    Attributes:
        name: registry name.
        version: raised whenever the geometry or the data changes; part of every result.
        summary: one line for listings.
        kind: ``vector`` or ``image``; decides which metrics apply.
        shape: shape of one sample.
        source: where trajectories start (t = 0).
        target: training distribution (t = 1).
        heldout: fresh real samples for the ``data`` row; the target itself when it can be sampled without end.
        net, train: network and training budget of the closed division, in the form a recipe has them.
        num_classes: classes of the labels, 0 when there are none.
        source_mixture, target_mixture: the same distributions as Gaussian mixtures where that is exact, for the oracle.
        w2_squared: squared 2-Wasserstein distance between source and target with its half-width (0 when exact), if known.
        extractor: name of the feature extractor for Frechet and kernel distances, image tasks only.
        gaussian_source: whether the source is N(0, I).
        levels: grey levels of images, equally spaced over [-1, 1]; 0 for vectors.
    """

    name: str
    version: int
    summary: str
    kind: str
    shape: tuple[int, ...]
    source: Distribution
    target: Distribution
    heldout: Distribution
    net: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int = 0
    source_mixture: GaussianMixture | None = None
    target_mixture: GaussianMixture | None = None
    w2_squared: tuple[float, float] | None = None
    extractor: str | None = None
    gaussian_source: bool = True
    levels: int = 0

    @property
    def dim(self) -> int:
        """Number of dimensions of one sample."""
        return int(torch.Size(self.shape).numel())

    def source_log_density(self) -> LogDensity | None:
        """Log density of the source in nats, (n, *shape) -> (n,); None when it is not known."""
        if isinstance(self.source, StandardNormal):
            return self.source.log_prob
        mixture = self.source_mixture
        return None if mixture is None else lambda x: mixture.log_prob(x.flatten(1).cpu()).to(x.device)

    @property
    def finite(self) -> bool:
        """Whether the target is a finite data set (images) rather than a distribution sampled without end."""
        return hasattr(self.target, "points")


class StandardNormal:
    """N(0, I) of a given sample shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """See :class:`Distribution`."""
        return torch.randn((n, *self.shape), generator=generator)

    def log_prob(self, x: Points) -> Tensor:
        """Log density in nats, (n,)."""
        return -0.5 * (squared_norm(x) + x[0].numel() * math.log(2 * math.pi))
