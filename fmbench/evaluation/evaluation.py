"""One model on one task of a protocol -> Result: sample unit by unit, score, time, merge over seeds."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmbench.evaluation import environment
from fmbench.evaluation.acceleration import accelerated
from fmbench.evaluation.cost.costs import model_cost
from fmbench.evaluation.cost.memory import process_peak
from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.flow_scoring import FlowScorer
from fmbench.evaluation.options import Options
from fmbench.evaluation.produce import UNIT, Order, identity_of, merged, sampled
from fmbench.evaluation.scoring import Scorer
from fmbench.evaluation.timing import Book, wishes
from fmbench.evaluation.units import Unit, stored
from fmbench.evaluation.witness import witness_of
from fmbench.execution.foreign import ForeignError, foreign
from fmbench.execution.stopwatch import Stopwatch
from fmbench.features import Extractor
from fmbench.noise import BLOCK
from fmbench.records.protocol import Protocol
from fmbench.records.result import Estimate, Result, Row
from fmbench.records.sampler import Sampler
from fmbench.shapes import Points
from fmbench.storage.files import sha256
from fmbench.tasks.base import Task
from fmbench.zoo.model import Model, device_of

DATA = "data"
"""Name of the anchor entry of fresh real samples."""

Report = Callable[[str, int, int], None]
"""Progress: (what, done, total)."""


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


def unfit(model: Model, sampler: Sampler) -> str | None:
    """The reason why a sampler does not apply to a model; None when it does."""
    return model.method.accepts(sampler)


@dataclass(frozen=True)
class Clocked(Extractor):
    """A feature extractor whose time counts as that of features."""

    watch: Stopwatch = field(default_factory=Stopwatch)

    @classmethod
    def of(cls, extractor: Extractor, watch: Stopwatch) -> Clocked:
        """The extractor, with its time counted by ``watch``."""
        return cls(**vars(extractor), watch=watch)

    def outputs(self, images: Points, clip: bool = True) -> tuple[Any, Any]:
        """See :meth:`fmbench.features.extractor.Extractor.outputs`."""
        with self.watch.phase("features"):
            return super().outputs(images, clip)


@dataclass
class Evaluation:
    """One model (or real data, ``model`` None) on one task of a protocol.

    Attributes:
        units: folder of stored samples, None to store none.
        book: latencies that are known.
        metrics: names of those that are measured.
        watch: counts the seconds of its phases from when it was made: trial, sampling, features, core (metrics of samples), flow (reference
            solve and core metrics of the flow), extended (other metrics of the flow), latency, cost.
    """

    spec: Protocol
    task: Task
    model: Model | None
    options: Options
    units: Path | None
    extractor: Extractor | None
    report: Report = quiet
    book: Book = field(default_factory=Book)
    metrics: Sequence[str] = ()
    watch: Stopwatch = field(default_factory=Stopwatch)

    @cached_property
    def scorer(self) -> Scorer:
        """The sample metrics."""
        seeds, samples = self.options.seeds(self.spec), self.options.samples(self.spec)
        device = resolve_device(self.options.device)
        return Scorer(self.task, self.metrics, seeds, samples, self.extractor, device=device)

    @property
    def name(self) -> str:
        """``task/entry``."""
        return self.model.name if self.model else f"{self.task.name}/{DATA}"

    # -- samples ------------------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """Everything that determines the samples, except sampler, seed and range."""
        assert self.model is not None
        return {
            "protocol": self.spec.sha256,
            "task": [self.task.name, self.task.version],
            "model": [self.name, self.model.identity],
            "batch_size": self.options.batch_size,
            "acceleration": dataclasses.asdict(self.options.acceleration),
        }

    def order(self, sampler: Sampler, seed: int, start: int, stop: int, named: str = "") -> Order:
        """The order for some samples; ``named`` is the string that names the model in another process."""
        assert self.model is not None
        options, device = self.options, str(device_of(self.model.method))
        whose = (named, identity_of(self.model), self.task.name)
        return Order(*whose, sampler, seed, start, stop, options.batch_size, device, options.acceleration)

    def orders(self, sampler: Sampler, seed: int, named: str = "") -> list[Order]:
        """The orders for all samples of a sampler and seed."""
        n = self.options.samples(self.spec)
        return [self.order(sampler, seed, start, min(start + UNIT, n), named) for start in range(0, n, UNIT)]

    def unit(self, order: Order) -> Unit:
        """The unit of an order, read from its file when there is one."""
        model = self.model
        assert model is not None
        with self.watch.phase("sampling"):
            if self.units is None:
                return sampled(model, order)
            shape = (order.stop - order.start, *self.task.shape)
            return stored(self.units / order.file, shape, lambda: sampled(model, order))

    def samples(self, sampler: Sampler, seed: int) -> Unit:
        """All samples of a sampler and seed, and their evaluation counts."""
        return merged([self.unit(order) for order in self.orders(sampler, seed)])

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
        parts = []
        for seed in self.options.seeds(self.spec):
            try:
                made = self.samples(sampler, seed)
            except ForeignError as error:
                return self._failed(empty, str(error))
            bad = int((~made.samples.isfinite()).flatten(1).any(dim=1).sum())
            if bad:
                return self._failed(empty, f"{bad} of {len(made.samples)} samples are NaN or infinite (seed {seed})")
            parts.append(made)
        everything = merged(parts)
        counts, n = {"network": 0, "guidance": 0, **everything.counts}, len(everything.samples)
        return Row(
            solver=sampler.solver,
            steps=sampler.steps,
            guidance=sampler.guidance,
            nfe={key: value / n for key, value in counts.items()},
            metrics=self._scored(scorer, [part.samples for part in parts], self._ends(sampler, endpoints)),
            latency=self.latency(sampler) if timed else None,
            samples={"n": n, "sha256": sha256(everything.samples.numpy())},
            witness=witness_of(parts[0].samples),
        )

    @staticmethod
    def _ends(sampler: Sampler, endpoints: Tensor | None) -> Tensor | None:
        """Ends of the reference solve for a sampler that follows the same field, which a guided one does not."""
        return endpoints if sampler.guidance == 1 else None

    def _scored(
        self, scorer: Scorer, samples: Sequence[Tensor], endpoints: Tensor | None = None, real: bool = False
    ) -> dict[str, Estimate]:
        """The metrics of samples, a set for each evaluation seed; the ends of the reference solve belong to the first."""
        with self.watch.phase("core"):
            ends = [endpoints, *[None] * (len(samples) - 1)]
            drawn = zip(samples, self.options.seeds(self.spec), ends, strict=False)
            return scorer.score([scorer.evidence(x, seed, end, real) for x, seed, end in drawn])

    def latency(self, sampler: Sampler) -> dict[str, Any]:
        """Latency of a sampler, from the book or measured now, when nothing else should load the machine."""
        assert self.model is not None
        device, how = str(device_of(self.model.method)), self.options.acceleration
        try:
            with self.watch.phase("latency"):
                wanted = wishes(self.model, [sampler], self.spec.latency["batches"], device, how)
                return self.book.fill(wanted, self.spec.latency, device, how)[0]
        except ForeignError as error:
            return {"failed": str(error)}

    def paired_row(self, sampler: Sampler, endpoints: Tensor | None, names: Sequence[str]) -> Row:
        """Metrics that look at the first noises of the first seed only, for which no others are sampled. Raises ForeignError."""
        assert self.model is not None
        scorer = dataclasses.replace(self.scorer, metrics=names)
        row = Row(sampler.solver, sampler.steps, sampler.guidance, {}, {})
        if (reason := unfit(self.model, sampler)) is not None:
            return dataclasses.replace(row, metrics=scorer.missing(reason))
        seed = self.options.seeds(self.spec)[0]
        n = min(self.options.samples(self.spec), -(-self.spec.flow["samples"] // BLOCK) * BLOCK)
        samples = self.unit(self.order(sampler, seed, 0, n)).samples
        if not bool(samples.isfinite().all()):
            raise ForeignError(f"samples of {sampler.label} are NaN or infinite (seed {seed})")
        return dataclasses.replace(row, metrics=self._scored(scorer, [samples], self._ends(sampler, endpoints)))

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

    def _failed(self, row: Row, reason: str) -> Row:
        return dataclasses.replace(row, metrics=self.scorer.missing("the samples failed"), failed=reason)

    def data_row(self, names: Sequence[str] | None = None) -> Row:
        """Real samples scored like a model: held-out images once, or fresh draws for every seed."""
        scorer = self.scorer if names is None else dataclasses.replace(self.scorer, metrics=names)
        seeds = self.task.distinct(self.options.seeds(self.spec))
        drawn = [self.task.anchor(self.scorer.samples, seed) for seed in seeds]
        everything = torch.cat(drawn)
        digest = {"n": len(everything), "sha256": sha256(everything.numpy())}
        estimates = self._scored(scorer, drawn, real=True)
        return Row("none", None, 1.0, {"network": 0.0, "guidance": 0.0}, estimates, None, digest)

    def flow_scorer(self, names: Sequence[str] | None = None) -> FlowScorer:
        """The flow metrics of the model, all or those named; a limited run solves no more trajectories than it samples."""
        samples, seed = self.options.samples(self.spec), self.options.seeds(self.spec)[0]
        metrics = self.metrics if names is None else names
        flow = self.options.flow(self.spec)
        return FlowScorer(self.model, metrics, seed, flow, samples, self.options.batch_size, self.task)

    def cost(self, timed: bool = True) -> dict[str, Any]:
        """Operations, memory and energy with the first sampler that the model allows; nothing for real data or a model that fails.

        Nothing either where it is not ``timed`` on a GPU: the energy of its board is that of all who use it.
        """
        if self.model is None or not (timed or device_of(self.model.method).type == "cpu"):
            return {}
        fitting = [sampler for sampler in self.spec.samplers if unfit(self.model, sampler) is None]
        if not fitting:
            return {"parameters": self.model.parameters, "reason": "no sampler of the protocol fits the model"}
        with self.watch.phase("cost"):
            return model_cost(self.model, fitting[0], self.spec.latency["batches"][-1])

    def conditions(self) -> dict[str, Any]:
        """The conditions of the run: versions, device, threads, batch size."""
        return {
            **environment.describe(device_of(self.model.method) if self.model else torch.device("cpu")),
            "batch_size": self.options.batch_size,
            "acceleration": dataclasses.asdict(self.options.acceleration),
        }

    def benchmark(self) -> dict[str, Any]:
        """The protocol as recorded in a result."""
        return {"name": self.spec.name, "version": self.spec.version, "sha256": self.spec.sha256}

    def result(self, rows: Sequence[Row], flow: Mapping[str, Estimate], cost: Mapping[str, Any]) -> Result:
        """A result of values measured since this object was created."""
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
            seconds=round(self.watch.total, 3),
            phases={name: round(seconds, 3) for name, seconds in self.watch.seconds.items()},
            created=now(),
        )


def now() -> str:
    """The time, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe(model: Model | None, name: str) -> dict[str, Any]:
    """The model as recorded in a result."""
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
