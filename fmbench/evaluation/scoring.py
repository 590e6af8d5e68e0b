"""Samples of one task against its real samples: the references, and every sample metric of a list, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fmbench.evaluation.references import REFERENCES
from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.features import Extractor
from fmbench.metrics.evidence import Evidence
from fmbench.metrics.reference import Lacking, Part, Reference
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate, check_estimate
from fmbench.shapes import Points
from fmbench.statistics.intervals import over_seeds
from fmbench.tasks.base import Task


def attempt(name: str, evidences: Sequence[Evidence]) -> Estimate:
    """A registered metric over the evidence of all seeds that have what it needs; null with the reason where none has, or where it fails.

    Any exception of a metric becomes the reason, because it may be a plug-in or call a model.
    """
    metric = METRICS[name]
    try:
        with foreign("could not be computed"), isolated():
            fitting = [one for one in evidences if one.lacks(metric.needs) is None]
            if not fitting:
                return Estimate.missing(str(evidences[0].lacks(metric.needs)))
            measured = [metric.resolve()(one) for one in fitting]
            for one in measured:
                if not isinstance(one, Estimate):
                    raise ValueError(f"the metric returned {type(one).__name__}, not an Estimate")
            found = over_seeds(measured, metric.range)
            # Here, so that one value that no result may hold costs its metric and not the whole result.
            check_estimate(name, found)
            return found
    except ForeignError as error:
        reason = error.__cause__ if isinstance(error.__cause__, Lacking) else error
        return Estimate.missing(str(reason))


@dataclass
class Scorer:
    """The sample metrics of one task.

    Attributes:
        task: its real samples are the reference; a finite data set is used whole, another is drawn from.
        metrics: names of registered metrics; those of another scope are skipped.
        seeds: evaluation seeds.
        samples: real samples drawn per seed from a target that can be sampled without end.
        extractor: of image features.
        reference: the reference to use instead of the task's real samples.
        device: device on which pairs of samples are compared.
    """

    task: Task
    metrics: Sequence[str]
    seeds: Sequence[int]
    samples: int
    extractor: Extractor | None = None
    reference: Reference | None = None
    device: str = "cpu"

    def against(self, seed: int) -> Reference:
        """The reference for the samples of a seed: the one given, else that of the task."""
        if self.reference is not None:
            return self.reference
        drawn = self.task.distinct((self.seeds[0], seed))[-1]
        return REFERENCES.of(self.task, drawn, self.samples, self.extractor, self.device)

    def evidence(self, samples: Points, seed: int, endpoints: Points | None = None, real: bool = False) -> Evidence:
        """The evidence for one seed; ``real`` marks samples of a finite data set, which are the same for all seeds."""
        task, extractor = self.task, self.extractor
        flat = task.space.flatten
        parts: dict[str, Any] = {name: Part(make) for name, make in task.provided().items()}
        parts["samples"] = Part(lambda: flat(samples))
        if endpoints is not None:
            parts["endpoints"] = Part(lambda: flat(endpoints))
        if extractor is not None:
            parts |= of_extractor(extractor, samples)
        return Evidence(
            parts,
            task.space.provides,
            self.against(seed),
            seed,
            only_seed=len(task.distinct(self.seeds) if real else self.seeds) == 1,
            kind=task.kind,
        )

    def score(self, evidences: Sequence[Evidence]) -> dict[str, Estimate]:
        """Every sample metric, over seeds; one that does not apply or fails is null with the reason."""
        return {name: attempt(name, evidences) for name in self.metrics if METRICS[name].scope == "samples"}

    def missing(self, reason: str) -> Mapping[str, Estimate]:
        """Every sample metric as null with the same reason."""
        return {name: Estimate.missing(reason) for name in self.metrics if METRICS[name].scope == "samples"}


def of_extractor(extractor: Extractor, samples: Points) -> dict[str, Any]:
    """Parts of evidence that an extractor makes of samples (n, *shape): one pass serves features and logits."""
    outputs = Part(lambda: extractor.outputs(samples))
    shape = tuple(samples.shape[1:])

    def extract(flat: np.ndarray) -> np.ndarray:
        # A copy, for torch takes no read-only arrays.
        return extractor.features(torch.tensor(flat, dtype=torch.float32).reshape(-1, *shape))

    return {
        "features": Part(lambda: outputs.get()[0]),
        "logits": Part(lambda: outputs.get()[1], optional=True),
        "extract": extract,
        "extractor": extractor.identity,
    }
