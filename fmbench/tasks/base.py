"""The definition of a task: a source, a target, and the fixed budget of its closed division."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fmbench.noise import draw
from fmbench.shapes import Labels, Points, squared_norm
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity
from fmbench.tasks.space import Space, space_of

LogDensity = Callable[[Points], Tensor]
"""(batch, *shape) -> log density in nats, (batch,)."""
SEPARATE = 3.0
"""Components of a mixture closer than this many standard deviations are a smooth density rather than modes."""


class Distribution(Protocol):
    """A distribution that points can be drawn from."""

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
        kind: kind of its space: ``vector``, ``image``, or that of ``space``.
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
        space: what samples are; that of ``kind`` and ``shape`` unless given.
        facts: whatever else only this task provides, by the name that metrics need it by: a probability table, a reward.
        reference: real samples to compare with where they are not those of ``target``: the test points of a fixed split.

    Raises ValueError in one line for a kind without a known space where none is given, and for a space of another kind or shape.
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
    space: Space = None  # type: ignore[assignment]
    facts: Mapping[str, Any] = field(default_factory=dict)
    reference: Distribution | None = None

    def __post_init__(self) -> None:
        space = self.space or space_of(self.kind, self.shape)
        if (space.kind, tuple(space.shape)) != (self.kind, tuple(self.shape)):
            raise ValueError(
                f"task {self.name} is of kind {self.kind!r} and shape {self.shape}, its space of {space.kind!r} and {space.shape}"
            )
        object.__setattr__(self, "space", space)

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
    def compared(self) -> Distribution:
        """Where the real samples to compare with come from."""
        return self.target if self.reference is None else self.reference

    @property
    def finite(self) -> bool:
        """Whether its real samples are a finite data set (images) rather than a distribution sampled without end."""
        return hasattr(self.compared, "points")

    # -- what it gives to an evaluation -------------------------------------------------------------------------------

    @property
    def fresh(self) -> bool:
        """Whether its real samples are drawn anew for every seed."""
        return not self.finite

    @property
    def published_sha256(self) -> str | None:
        """The hash of its real samples where they are a published data set, whose features are cached on disk; None otherwise."""
        return getattr(self.compared, "sha256", None)

    def distinct(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """The seeds whose real samples differ: the first for a finite data set, which is the same for all."""
        return tuple(dict.fromkeys(seeds))[: 1 if self.finite else None]

    def real(self, n: int, seed: int) -> Points:
        """Real samples to compare with: all points of a finite data set, or ``n`` draws of an endless target."""
        if self.finite:
            return self.compared.points()[0]  # type: ignore[attr-defined]
        return draw(self.compared.sample, 0, n, seed, "reference")

    def anchor(self, n: int, seed: int) -> Points:
        """Fresh real samples for the ``data`` row: all held-out points of a finite data set, or ``n`` draws."""
        if self.finite:
            return self.heldout.points()[0]  # type: ignore[attr-defined]
        return draw(self.heldout.sample, 0, n, seed, "data")

    def unseen(self, n: int, seed: int) -> tuple[Points, Labels | None]:
        """``n`` real samples that no model was trained on, with their labels where the task has classes; a finite set gives some twice."""
        points = draw(self.heldout.sample, 0, n, seed, "data")
        if not self.num_classes:
            return points, None
        return points, draw(lambda k, g: self.heldout.sample_labelled(k, g)[1], 0, n, seed, "data")  # type: ignore[attr-defined]

    def known_log_density(self, points: Points) -> np.ndarray | None:
        """Log density in nats, (n,) float64, of an endless target where it is known; None where it is not."""
        known = None if self.finite else self.target_mixture
        return None if known is None else known.log_prob(points.flatten(1)).numpy()

    def provided(self) -> dict[str, Callable[[], Any]]:
        """The task's facts for metrics, beside real samples: name -> function that computes it."""
        source, target, known = self.source_mixture, self.target_mixture, self.source_log_density()
        there: dict[str, Callable[[], Any]] = {name: lambda v=value: v for name, value in self.facts.items()}
        if self.finite and self.heldout is not self.compared:
            there["heldout"] = lambda: self.space.flatten(self.anchor(0, 0))
        if target is not None and not self.finite and target.separation >= SEPARATE:
            there["mixture"] = lambda: target
        if source is not None and target is not None:
            there["oracle"] = lambda: MixtureVelocity(source, target)
        for name, value in (
            ("w2_squared", self.w2_squared),
            ("source_density", known),
            ("levels", self.levels or None),
        ):
            if value is not None:
                there[name] = lambda v=value: v
        return there


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
