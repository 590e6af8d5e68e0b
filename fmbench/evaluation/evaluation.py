"""One model on one task of a protocol -> Result: sample unit by unit, score, time, merge over seeds."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmbench.evaluation import environment, units
from fmbench.evaluation.acceleration import Acceleration, accelerate_net
from fmbench.evaluation.cost.costs import model_cost, sampler_latency
from fmbench.evaluation.cost.memory import process_peak
from fmbench.evaluation.flow_scoring import FlowScorer
from fmbench.evaluation.options import Options
from fmbench.evaluation.scoring import Scorer
from fmbench.execution.foreign import ForeignError, foreign
from fmbench.features import Extractor
from fmbench.flows.flow import Flow
from fmbench.noise import BLOCK
from fmbench.records.names import check_name
from fmbench.records.protocol import Protocol
from fmbench.records.result import Result, Row
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


@contextmanager
def accelerated(method: Flow, acceleration: Acceleration) -> Iterator[None]:
    """The method's network accelerated inside, plain afterwards: reference solves and Jacobians stay in full precision."""
    if acceleration == Acceleration():
        yield
        return
    accelerate_net(method, acceleration)
    try:
        yield
    finally:
        accelerate_net(method, Acceleration())


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

    def row(self, sampler: Sampler, endpoints: Tensor | None) -> Row:
        """One sampler: samples of every seed, metrics, latency. A model that fails or gives NaN yields a failed row, never an exception."""
        assert self.model is not None
        empty = Row(sampler.solver, sampler.steps, sampler.guidance, {}, {})
        if (reason := unfit(self.model, sampler)) is not None:
            return dataclasses.replace(empty, metrics=self.scorer.missing(reason))
        contexts, total, counts = [], [], {"network": 0, "guidance": 0}
        for seed in self.options.seeds(self.spec):
            try:
                samples, made = self.samples(sampler, seed)
            except ForeignError as error:
                return self._failed(empty, str(error))
            bad = int((~samples.isfinite()).flatten(1).any(dim=1).sum())
            if bad:
                return self._failed(empty, f"{bad} of {len(samples)} samples are NaN or infinite (seed {seed})")
            first = seed == self.options.seeds(self.spec)[0] and sampler.guidance == 1
            contexts.append(self.scorer.context(samples, seed, endpoints if first else None))
            total.append(samples)
            counts = {key: counts.get(key, 0) + made.get(key, 0) for key in {**counts, **made}}
        everything = torch.cat(total)
        return Row(
            solver=sampler.solver,
            steps=sampler.steps,
            guidance=sampler.guidance,
            nfe={key: value / len(everything) for key, value in counts.items()},
            metrics=self.scorer.score(contexts),
            latency={**sampler_latency(self.model, sampler, self.spec.latency), **self.how()},
            samples={"n": len(everything), "sha256": sha256(everything.numpy())},
        )

    def accelerated_row(self, sampler: Sampler, endpoints: Tensor | None) -> Row:
        """:meth:`row` with the network accelerated as the options say; a network that cannot be is a failed row."""
        assert self.model is not None
        with ExitStack() as stack:
            try:
                with foreign():
                    stack.enter_context(accelerated(self.model.method, self.options.acceleration))
            except ForeignError as error:
                return self._failed(Row(sampler.solver, sampler.steps, sampler.guidance, {}, {}), str(error))
            return self.row(sampler, endpoints)

    def how(self) -> dict[str, str]:
        """Precision and compilation that the network itself cannot tell."""
        used = self.options.acceleration
        return {} if used == Acceleration() else {"dtype": used.dtype, "compile": used.compile}

    def _failed(self, row: Row, reason: str) -> Row:
        return dataclasses.replace(row, metrics=self.scorer.missing("the samples failed"), failed=reason)

    def data_row(self) -> Row:
        """Real samples scored like a model: held-out images once, or fresh draws for every seed."""
        seeds = self.options.seeds(self.spec)[: 1 if self.task.finite else None]
        drawn = [self.scorer.real(seed, "data") for seed in seeds]
        contexts = [self.scorer.context(x, seed, real=True) for x, seed in zip(drawn, seeds, strict=True)]
        everything = torch.cat(drawn)
        digest = {"n": len(everything), "sha256": sha256(everything.numpy())}
        return Row("none", None, 1.0, {"network": 0.0, "guidance": 0.0}, self.scorer.score(contexts), None, digest)

    def flow_scorer(self) -> FlowScorer:
        """The flow metrics of the model; a limited run solves no more trajectories than it samples."""
        samples, flow = self.options.samples(self.spec), dict(self.spec.flow)
        if self.options.limit:
            flow.update({key: min(flow[key], samples) for key in ("samples", "probes")})
        seed = self.options.seeds(self.spec)[0]
        return FlowScorer(self.model, self.spec.metrics, seed, flow, samples, self.options.batch_size)

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
            "acceleration": dataclasses.asdict(self.options.acceleration),
        }

    def benchmark(self) -> dict[str, Any]:
        """What a result says about the protocol."""
        return {"name": self.spec.name, "version": self.spec.version, "sha256": self.spec.sha256}

    def measure_flow_again(self, found: Result) -> Result:
        """A result of an earlier version that this protocol keeps: its rows as they are, its flow measured now."""
        began = time.monotonic()
        self.report(self.name, 0, 1)
        return dataclasses.replace(
            found,
            benchmark=self.benchmark(),
            flow=self.flow_scorer().score(),
            environment={**found.environment, "flow": self.conditions()},
            seconds=round(found.seconds + time.monotonic() - began, 3),
            created=now(),
        )

    def run(self) -> Result:
        """The whole evaluation."""
        began = time.monotonic()
        total = len(self.spec.samplers) + 1
        self.report(self.name, 0, total)
        flows = self.flow_scorer()
        flow = flows.score()
        if self.model is None:
            rows = (self.data_row(),)
        else:
            rows = []
            for index, sampler in enumerate(self.spec.samplers):
                self.report(self.name, index + 1, total)
                rows.append(self.accelerated_row(sampler, flows.endpoints()))
            rows = tuple(rows)
        return Result(
            benchmark=self.benchmark(),
            task={"name": self.task.name, "version": self.task.version, "kind": self.task.kind},
            model=describe(self.model, self.name),
            rows=rows,
            flow=flow,
            cost=self.cost(),
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
