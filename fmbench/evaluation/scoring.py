"""Samples of one task against its real samples: the references, and every sample metric of a list, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.features import Extractor
from fmbench.features.store import pixel_sha256, reference_features
from fmbench.metrics.base import SampleContext
from fmbench.noise import draw
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate, check_estimate
from fmbench.shapes import Points
from fmbench.statistics.intervals import over_seeds
from fmbench.storage.files import sha256
from fmbench.tasks.base import Task
from fmbench.tasks.mixture import GaussianMixture

SEPARATE = 3.0
"""Components of a mixture closer than this many standard deviations are a smooth density rather than modes."""


def attempt(name: str, kind: str, contexts: Sequence[Any]) -> Estimate:
    """A registered metric over the contexts of all seeds; null with the reason where it does not apply to the kind of task or fails.

    Whatever a metric raises is a reason, for it may come from outside or call a model.
    """
    if kind not in METRICS[name].kinds:
        return Estimate.missing(f"defined for {' and '.join(METRICS[name].kinds)} tasks only")
    try:
        with foreign("could not be computed"), isolated():
            measured = [METRICS[name].resolve()(context) for context in contexts]
            for one in measured:
                if not isinstance(one, Estimate):
                    raise ValueError(f"the metric returned {type(one).__name__}, not an Estimate")
            found = over_seeds(measured, METRICS[name].range)
            # Here, so that one value that no result may hold costs its metric and not the whole result.
            check_estimate(name, found)
            return found
    except ForeignError as error:
        return Estimate.missing(str(error))


@dataclass
class Reference:
    """Real samples that generated ones are compared with; each part is read or computed when the first metric asks.

    Attributes:
        task: where they come from.
        draw: the samples, (m, *shape).
        extractor: of the task, None for vectors.
    """

    task: Task
    draw: Callable[[], Points]
    extractor: Extractor | None = None

    @cached_property
    def flat(self) -> np.ndarray:
        """The points as (m, d)."""
        return flatten(self.draw())

    @cached_property
    def sha256(self) -> str:
        """Hash that pins the points: of their pixels for a finite set, of their float32 bytes otherwise."""
        return pixel_sha256(self.task.target) if self.task.finite else sha256(self.flat.astype(np.float32))

    @cached_property
    def features(self) -> np.ndarray | None:
        """Features of the points, (m, f): kept on disk for a data set of the Hub."""
        if self.extractor is None:
            return None
        stored = hasattr(self.task.target, "dataset")
        return reference_features(self.task, self.extractor) if stored else self.extractor.features(self.draw())


def flatten(points: Tensor) -> np.ndarray:
    """(n, *shape) points as an (n, d) array: images stay float32 (metrics convert what they use), vectors become float64."""
    flat = points.flatten(1)
    return (flat if points.ndim > 2 else flat.double()).numpy()


@dataclass
class Scorer:
    """The sample metrics of one task.

    Attributes:
        task: its real samples are the reference; a finite data set is used whole, another is drawn from.
        metrics: names of registered metrics; those of another scope are skipped.
        seeds: evaluation seeds.
        samples: real samples drawn per seed from a target that can be sampled without end.
        extractor: of image features.
    """

    task: Task
    metrics: Sequence[str]
    seeds: Sequence[int]
    samples: int
    extractor: Extractor | None = None
    references: dict[int, Reference] = field(default_factory=dict)

    def real(self, seed: int, stream: str) -> Points:
        """Real samples: all points of a finite set (held-out ones for the stream "data"), or ``samples`` fresh draws."""
        source = self.task.heldout if stream == "data" else self.task.target
        if self.task.finite:
            return source.points()[0]  # type: ignore[attr-defined]
        return draw(source.sample, 0, self.samples, seed, stream)

    def reference(self, seed: int) -> Reference:
        """The reference of a seed; a finite data set is the same for all."""
        key = self.seeds[0] if self.task.finite else seed
        if key not in self.references:
            self.references[key] = Reference(self.task, lambda: self.real(key, "reference"), self.extractor)
        return self.references[key]

    @cached_property
    def heldout(self) -> np.ndarray | None:
        """Held-out samples of a finite data set, (k, d)."""
        kept = self.task.finite and self.task.heldout is not self.task.target
        return flatten(self.real(0, "data")) if kept else None

    @cached_property
    def modes(self) -> GaussianMixture | None:
        """The target as a mixture whose components are modes: at least :data:`SEPARATE` standard deviations apart."""
        target = None if self.task.finite else self.task.target_mixture
        return target if target is not None and target.separation >= SEPARATE else None

    def context(self, samples: Points, seed: int, endpoints: Points | None = None, real: bool = False) -> SampleContext:
        """What the metrics of one seed see; ``real`` marks samples of a finite data set, which exist once and not per seed."""
        reference, extractor, shape = self.reference(seed), self.extractor, self.task.shape

        seen: list[Any] = [None, None]

        def outputs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            """Features and logits, those of the last array kept: one pass serves both."""
            if seen[0] is not x:
                images = torch.from_numpy(np.ascontiguousarray(x)).float().reshape(-1, *shape)
                seen[:] = [x, extractor.outputs(images)]  # type: ignore[union-attr]
            return seen[1]

        return SampleContext(
            kind=self.task.kind,
            seed=seed,
            samples=flatten(samples),
            real=lambda: reference.flat,
            reference_sha256=reference.sha256,
            endpoints=None if endpoints is None else flatten(endpoints),
            extract=None if extractor is None else lambda x: outputs(x)[0],
            extractor=None if extractor is None else extractor.identity,
            reference_features=reference.features,
            only_seed=(self.task.finite and real) or len(self.seeds) == 1,
            fresh_reference=not self.task.finite,
            heldout=self.heldout,
            mixture=self.modes,
            classify=None if extractor is None else lambda x: outputs(x)[1],
        )

    def score(self, contexts: Sequence[SampleContext]) -> dict[str, Estimate]:
        """Every sample metric, over seeds; one that does not apply or fails is null with the reason."""
        estimates = {}
        for name in self.metrics:
            if METRICS[name].scope == "samples":
                chosen = contexts[:1] if METRICS[name].first_seed else contexts
                estimates[name] = attempt(name, self.task.kind, chosen)
        return estimates

    def missing(self, reason: str) -> Mapping[str, Estimate]:
        """Every sample metric as null with the same reason."""
        return {name: Estimate.missing(reason) for name in self.metrics if METRICS[name].scope == "samples"}
