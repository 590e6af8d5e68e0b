"""One model on one task of a protocol -> Result: sample unit by unit, score, time, merge over seeds."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmbench.evaluation import environment, units
from fmbench.evaluation.acceleration import accelerated
from fmbench.evaluation.cost.costs import model_cost
from fmbench.evaluation.cost.memory import process_peak
from fmbench.evaluation.flow_scoring import FlowScorer
from fmbench.evaluation.options import Options
from fmbench.evaluation.scoring import Scorer
from fmbench.evaluation.timing import Book, Wish, timing_key
from fmbench.evaluation.witness import witness_of
from fmbench.execution.foreign import ForeignError, foreign
from fmbench.features import Extractor
from fmbench.noise import BLOCK
from fmbench.records.names import check_name
from fmbench.records.protocol import Protocol
from fmbench.records.result import Estimate, Result, Row
from fmbench.records.sampler import Sampler
from fmbench.storage.files import sha256
from fmbench.tasks.base import Task
from fmbench.zoo.model import Model, device_of, generate

UNIT = 8 * BLOCK
"""Samples per unit."""
DATA = "data"
"""Name of the anchor entry of fresh real samples."""

Report = Callable[[str, int, int], None]
"""Progress: (what, done, total)."""


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


def unfit(model: Model, sampler: Sampler) -> str | None:
    """Why a sampler does not apply to a model; None when it does."""
    return model.method.accepts(sampler)


@dataclass
class Evaluation:
    """One model (or real data, ``model`` None) on one task of a protocol."""

    spec: Protocol
    task: Task
    model: Model | None
    options: Options
    units: Path | None
    extractor: Extractor | None
    report: Report = quiet
    book: Book = dataclasses.field(default_factory=Book)

    @cached_property
    def scorer(self) -> Scorer:
        """The sample metrics."""
        seeds, samples = self.options.seeds(self.spec), self.options.samples(self.spec)
        return Scorer(self.task, self.spec.metrics, seeds, samples, self.extractor)

    @property
    def name(self) -> str:
        """``task/entry``."""
        return self.model.name if self.model else f"{self.task.name}/{DATA}"

    # -- samples ------------------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """Everything that determines the samples, but for sampler, seed and range."""
        assert self.model is not None
        return {
            "protocol": self.spec.sha256,
            "task": [self.task.name, self.task.version],
            "model": [self.name, self.model.identity],
            "batch_size": self.options.batch_size,
            "acceleration": dataclasses.asdict(self.options.acceleration),
        }

    def unit(self, sampler: Sampler, seed: int, start: int, stop: int) -> units.Unit:
        """One unit, from its file when there is one."""

        def make() -> units.Unit:
            assert self.model is not None
            draws, labels = self.model.draws(start, stop, seed), self.model.labels(start, stop, seed)
            with foreign():
                made = generate(self.model.method, draws, sampler, labels, self.options.batch_size, self.task.shape)
            return units.Unit(made.samples, dict(made.evaluations.rows))

        if self.units is None:
            return make()
        name = check_name(f"{sampler.label}-s{seed}-{start}-{stop}.safetensors", "a unit of samples")
        return units.stored(self.units / name, (stop - start, *self.task.shape), make)

    def samples(self, sampler: Sampler, seed: int) -> tuple[Tensor, dict[str, int]]:
        """All samples of a sampler and seed, and their evaluation counts."""
        n = self.options.samples(self.spec)
        parts = [self.unit(sampler, seed, start, min(start + UNIT, n)) for start in range(0, n, UNIT)]
        purposes = dict.fromkeys(purpose for part in parts for purpose in part.counts)
        counts = {purpose: sum(part.counts.get(purpose, 0) for part in parts) for purpose in purposes}
        return torch.cat([part.samples for part in parts]), counts

    # -- rows ---------------------------------------------------------------------------------------------------------

    def row(
        self, sampler: Sampler, endpoints: Tensor | None, names: Sequence[str] | None = None, timed: bool = True
    ) -> Row:
        """One sampler: samples of every seed, metrics (all, or those named), latency where ``timed``.

        A model that fails or gives NaN yields a failed row, never an exception.
        """
        assert self.model is not None
        scorer = self.scorer if names is None else dataclasses.replace(self.scorer, metrics=names)
        empty = Row(sampler.solver, sampler.steps, sampler.guidance, {}, {})
        if (reason := unfit(self.model, sampler)) is not None:
            return dataclasses.replace(empty, metrics=scorer.missing(reason))
        evidences, total, counts = [], [], {"network": 0, "guidance": 0}
        for seed in self.options.seeds(self.spec):
            try:
                samples, made = self.samples(sampler, seed)
            except ForeignError as error:
                return self._failed(empty, str(error))
            bad = int((~samples.isfinite()).flatten(1).any(dim=1).sum())
            if bad:
                return self._failed(empty, f"{bad} of {len(samples)} samples are NaN or infinite (seed {seed})")
            first = seed == self.options.seeds(self.spec)[0] and sampler.guidance == 1
            evidences.append(scorer.evidence(samples, seed, endpoints if first else None))
            total.append(samples)
            counts = {key: counts.get(key, 0) + made.get(key, 0) for key in {**counts, **made}}
        everything = torch.cat(total)
        return Row(
            solver=sampler.solver,
            steps=sampler.steps,
            guidance=sampler.guidance,
            nfe={key: value / len(everything) for key, value in counts.items()},
            metrics=scorer.score(evidences),
            latency=self.latency(sampler) if timed else None,
            samples={"n": len(everything), "sha256": sha256(everything.numpy())},
            witness=witness_of(total[0]),
        )

    def paired_row(self, sampler: Sampler, endpoints: Tensor | None, names: Sequence[str]) -> Row:
        """Metrics that look at the first noises of the first seed only, for which no others are sampled. Raises ForeignError."""
        assert self.model is not None
        scorer = dataclasses.replace(self.scorer, metrics=names)
        row = Row(sampler.solver, sampler.steps, sampler.guidance, {}, {})
        if (reason := unfit(self.model, sampler)) is not None:
            return dataclasses.replace(row, metrics=scorer.missing(reason))
        seed = self.options.seeds(self.spec)[0]
        n = min(self.options.samples(self.spec), -(-self.spec.flow["samples"] // BLOCK) * BLOCK)
        samples = self.unit(sampler, seed, 0, n).samples
        if not bool(samples.isfinite().all()):
            raise ForeignError(f"samples of {sampler.label} are NaN or infinite (seed {seed})")
        evidence = scorer.evidence(samples, seed, endpoints if sampler.guidance == 1 else None)
        return dataclasses.replace(row, metrics=scorer.score([evidence]))

    def accelerated_row(self, sampler: Sampler, *args: Any, **kwargs: Any) -> Row:
        """:meth:`row` with the network accelerated as the options say; a network that cannot be is a failed row."""
        assert self.model is not None
        with ExitStack() as stack:
            try:
                with foreign():
                    stack.enter_context(accelerated(self.model.method, self.options.acceleration))
            except ForeignError as error:
                return self._failed(Row(sampler.solver, sampler.steps, sampler.guidance, {}, {}), str(error))
            return self.row(sampler, *args, **kwargs)

    def latency(self, sampler: Sampler) -> dict[str, Any]:
        """Latency of a sampler, measured now."""
        assert self.model is not None
        device, how = str(device_of(self.model.method)), self.options.acceleration
        wish = Wish(timing_key(self.model, sampler, self.spec.latency["batches"], device, how), self.model, sampler)
        return self.book.fill([wish], self.spec.latency, device, how)[0]

    def _failed(self, row: Row, reason: str) -> Row:
        return dataclasses.replace(row, metrics=self.scorer.missing("the samples failed"), failed=reason)

    def data_row(self, names: Sequence[str] | None = None) -> Row:
        """Real samples scored like a model: held-out images once, or fresh draws for every seed."""
        scorer = self.scorer if names is None else dataclasses.replace(self.scorer, metrics=names)
        seeds = self.task.distinct(self.options.seeds(self.spec))
        drawn = [self.task.anchor(self.scorer.samples, seed) for seed in seeds]
        evidences = [scorer.evidence(x, seed, real=True) for x, seed in zip(drawn, seeds, strict=True)]
        everything = torch.cat(drawn)
        digest = {"n": len(everything), "sha256": sha256(everything.numpy())}
        return Row("none", None, 1.0, {"network": 0.0, "guidance": 0.0}, scorer.score(evidences), None, digest)

    def flow_scorer(self, names: Sequence[str] | None = None) -> FlowScorer:
        """The flow metrics of the model, all or those named; a limited run solves no more trajectories than it samples."""
        samples, seed = self.options.samples(self.spec), self.options.seeds(self.spec)[0]
        metrics = self.spec.metrics if names is None else names
        flow = self.options.flow(self.spec)
        return FlowScorer(self.model, metrics, seed, flow, samples, self.options.batch_size, self.task)

    def cost(self) -> dict[str, Any]:
        """Operations, memory and energy with the first sampler that the model allows; nothing for real data or a model that fails."""
        if self.model is None:
            return {}
        fitting = [sampler for sampler in self.spec.samplers if unfit(self.model, sampler) is None]
        if not fitting:
            return {"parameters": self.model.parameters, "reason": "no sampler of the protocol fits the model"}
        return model_cost(self.model, fitting[0], self.spec.latency["batches"][-1])

    def conditions(self) -> dict[str, Any]:
        """Where and how this runs."""
        return {
            **environment.describe(device_of(self.model.method) if self.model else torch.device("cpu")),
            "batch_size": self.options.batch_size,
            "acceleration": dataclasses.asdict(self.options.acceleration),
        }

    def benchmark(self) -> dict[str, Any]:
        """What a result says about the protocol."""
        return {"name": self.spec.name, "version": self.spec.version, "sha256": self.spec.sha256}

    def result(
        self, rows: Sequence[Row], flow: Mapping[str, Estimate], cost: Mapping[str, Any], began: float
    ) -> Result:
        """A result of numbers that were measured since ``began``, a reading of the monotonic clock."""
        return Result(
            benchmark=self.benchmark(),
            task={"name": self.task.name, "version": self.task.version, "kind": self.task.kind},
            model=describe(self.model, self.name),
            rows=tuple(rows),
            flow=flow,
            cost=cost,
            ranked=self.options.ranked,
            unranked_because=self.options.unranked_because,
            seeds=self.options.seeds(self.spec),
            samples_per_seed=self.options.samples(self.spec),
            environment=self.conditions(),
            peak_memory_bytes=process_peak(),
            seconds=round(time.monotonic() - began, 3),
            created=now(),
        )


def now() -> str:
    """The time, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe(model: Model | None, name: str) -> dict[str, Any]:
    """What a result says about the model."""
    if model is None:
        return {"name": name, "method": DATA, "division": "anchor", "parameters": 0, "weights_sha256": None}
    recipe = model.recipe
    closed_form = recipe is not None and not recipe.net
    return {
        "name": name,
        "method": recipe.method["name"] if recipe else type(model.method).__name__,
        "division": "anchor" if closed_form else recipe.division if recipe else "open",
        "parameters": model.parameters,
        "conditional": model.conditional,
        "weights_sha256": None,
        **model.identity,
    }
