"""One model on one task of a protocol -> Result: sample unit by unit, score, time, merge over seeds."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmbench import environment, units
from fmbench.features import Extractor
from fmbench.files import sha256
from fmbench.methods.base import VelocityMethod
from fmbench.metrics.base import SampleContext, over_seeds
from fmbench.metrics.flow import FlowContext, Trajectories, concatenate, reference_solve
from fmbench.metrics.info import METRICS as INFO
from fmbench.metrics.latency import measure_latency
from fmbench.model import Model, device_of, generate
from fmbench.noise import BLOCK, draw
from fmbench.protocol import Protocol, Sampler
from fmbench.registry import METRICS
from fmbench.result import Estimate, Result, Row
from fmbench.tasks.base import Task

UNIT = 8 * BLOCK
"""Samples per unit."""
DATA = "data"
"""Name of the anchor entry of fresh real samples."""

Report = Callable[[str, int, int], None]
"""Progress: (what, done, total)."""


def one_line(error: Exception) -> str:
    """An exception as one line: its type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here may change a sample, except ``limit``.

    Attributes:
        batch_size: samples per network call for fixed-grid solvers.
        limit: samples per seed instead of the protocol's; marks the result as not ranked.
        seed_set: k shifts every evaluation seed by 1000 k; marks the result as not ranked unless 0.
        overwrite: ignore finished results and units.
    """

    batch_size: int = 1024
    limit: int | None = None
    seed_set: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name.replace('_', ' ')} must be at least 1, got {value}")
        if self.seed_set < 0:
            raise ValueError(f"seed set must be 0 or more, got {self.seed_set}")

    def samples(self, spec: Protocol) -> int:
        """Samples per seed."""
        return spec.samples if self.limit is None else min(self.limit, spec.samples)

    def seeds(self, spec: Protocol) -> tuple[int, ...]:
        """Evaluation seeds."""
        return tuple(seed + 1000 * self.seed_set for seed in spec.seeds)

    @property
    def ranked(self) -> bool:
        """Whether the result may be ranked."""
        return self.limit is None and self.seed_set == 0


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
    references: dict[int, tuple[Tensor, np.ndarray | None]] = field(default_factory=dict)

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
        }

    def unit(self, sampler: Sampler, seed: int, start: int, stop: int) -> units.Unit:
        """One unit, from its file when there is one."""

        def make() -> units.Unit:
            assert self.model is not None
            made = generate(
                self.model.method,
                self.model.noise(start, stop, seed),
                sampler.budget(),
                self.model.labels(start, stop, seed),
                self.options.batch_size,
            )
            return units.Unit(made.samples, dataclasses.asdict(made.evaluations))

        if self.units is None:
            return make()
        return units.stored(self.units / f"{sampler.label}-s{seed}-{start}-{stop}.safetensors", make)

    def samples(self, sampler: Sampler, seed: int) -> tuple[Tensor, dict[str, int]]:
        """All samples of a sampler and seed, and their evaluation counts."""
        n = self.options.samples(self.spec)
        parts = [self.unit(sampler, seed, start, min(start + UNIT, n)) for start in range(0, n, UNIT)]
        counts = {key: sum(part.counts[key] for part in parts) for key in parts[0].counts}
        return torch.cat([part.samples for part in parts]), counts

    def real(self, seed: int, stream: str) -> Tensor:
        """Fresh real samples: all points of a finite set, or as many as the models make from an endless one."""
        source = self.task.heldout if stream == "data" else self.task.target
        if self.task.finite:
            return source.points()[0]  # type: ignore[attr-defined]
        return draw(source.sample, 0, self.options.samples(self.spec), seed, stream)

    # -- metrics ------------------------------------------------------------------------------------------------------

    def context(self, samples: Tensor, seed: int, endpoints: Tensor | None) -> SampleContext:
        """What the metrics of one seed see."""
        if seed not in self.references:
            reference = self.real(seed, "reference")
            features = self.extractor.features(reference) if self.extractor else None
            self.references[seed] = (reference, features)
        reference, features = self.references[seed]
        extract = None
        if (extractor := self.extractor) is not None:
            shape = self.task.shape
            extract = lambda x: extractor.features(torch.from_numpy(x).float().reshape(-1, *shape))  # noqa: E731
        return SampleContext(
            kind=self.task.kind,
            seed=seed,
            samples=samples.flatten(1).double().numpy(),
            reference=reference.flatten(1).double().numpy(),
            reference_sha256=sha256(reference.numpy().tobytes()),
            endpoints=None if endpoints is None else endpoints.flatten(1).double().numpy(),
            extract=extract,
            extractor=None if extractor is None else extractor.identity,
            reference_features=features,
            only_seed=(self.task.finite and self.model is None) or len(self.spec.seeds) == 1,
        )

    def metrics(self, contexts: Sequence[SampleContext]) -> dict[str, Estimate]:
        """Every sample metric of the protocol, over seeds."""
        estimates = {}
        for name in self.spec.metrics:
            if INFO[name].scope != "samples":
                continue
            if self.task.kind not in INFO[name].kinds:
                estimates[name] = Estimate.missing(f"defined for {' and '.join(INFO[name].kinds)} tasks only")
                continue
            measure = METRICS.resolve(name)
            chosen = contexts[:1] if INFO[name].first_seed else contexts
            try:
                estimates[name] = over_seeds([measure(context) for context in chosen])
            except (ValueError, RuntimeError) as error:
                estimates[name] = Estimate.missing(f"could not be computed: {one_line(error)}")
        return estimates

    def reference(self) -> Trajectories | None:
        """The shared fine solve of the first seed's first samples; None without a velocity field."""
        if self.model is None or not isinstance(self.model.method, VelocityMethod):
            return None
        method, device = self.model.method, device_of(self.model.method)
        n = (
            min(self.spec.flow["samples"], self.options.samples(self.spec))
            if self.options.limit
            else self.spec.flow["samples"]
        )
        seed = self.options.seeds(self.spec)[0]
        noise, labels = self.model.noise(0, n, seed), self.model.labels(0, n, seed)
        parts = []
        with torch.no_grad():
            for start in range(0, n, self.options.batch_size):
                rows = slice(start, start + self.options.batch_size)
                chosen = None if labels is None else labels[rows].to(device)
                parts.append(reference_solve(method.field(chosen), noise[rows].to(device), self.spec.flow["steps"]))
        return concatenate(parts)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def row(self, sampler: Sampler, solve: Trajectories | None) -> Row:
        """One sampler: samples of every seed, metrics, latency. A model that fails or gives NaN yields a failed row, never an exception."""
        assert self.model is not None
        empty = Row(sampler.solver, sampler.steps, sampler.guidance, {}, {})
        allowed = self.model.method.steps_allowed
        if allowed and (sampler.steps not in allowed or sampler.solver != "euler"):
            reason = f"this model samples with euler and {', '.join(map(str, allowed))} step only"
            return dataclasses.replace(empty, metrics=self._null(reason))
        contexts, total, counts = [], [], {"network": 0, "guidance": 0}
        for seed in self.options.seeds(self.spec):
            try:
                samples, made = self.samples(sampler, seed)
            except (ValueError, RuntimeError, ArithmeticError) as error:
                return self._failed(empty, one_line(error))
            bad = int((~samples.isfinite()).flatten(1).any(dim=1).sum())
            if bad:
                return self._failed(empty, f"{bad} of {len(samples)} samples are NaN or infinite (seed {seed})")
            first = seed == self.options.seeds(self.spec)[0] and sampler.guidance == 1
            contexts.append(self.context(samples, seed, solve.stop if solve is not None and first else None))
            total.append(samples)
            counts = {key: counts[key] + made[key] for key in counts}
        everything = torch.cat(total)
        return Row(
            solver=sampler.solver,
            steps=sampler.steps,
            guidance=sampler.guidance,
            nfe={key: value / len(everything) for key, value in counts.items()},
            metrics=self.metrics(contexts),
            latency=self.latency(sampler),
            samples={"n": len(everything), "sha256": sha256(everything.numpy().tobytes())},
        )

    def _null(self, reason: str) -> dict[str, Estimate]:
        return {name: Estimate.missing(reason) for name in self.spec.metrics if INFO[name].scope == "samples"}

    def _failed(self, row: Row, reason: str) -> Row:
        return dataclasses.replace(row, metrics=self._null("the samples failed"), failed=reason)

    def latency(self, sampler: Sampler) -> dict[str, Any]:
        """Time one batch of the protocol's size with inputs on the device; seed 0 of the source."""
        assert self.model is not None
        batch, device = int(self.spec.latency["batch"]), device_of(self.model.method)
        noise, labels = self.model.noise(0, batch, 0).to(device), self.model.labels(0, batch, 0)
        labels = None if labels is None else labels.to(device)
        budget = sampler.budget()
        with torch.no_grad():
            return measure_latency(
                lambda: self.model.method.sample(noise, budget, labels),  # type: ignore[union-attr]
                device,
                batch,
                self.spec.latency["seconds"],
            )

    def data_row(self) -> Row:
        """Real samples scored like a model: held-out images once, or fresh draws for every seed."""
        seeds = self.options.seeds(self.spec)[: 1 if self.task.finite else None]
        drawn = [self.real(seed, "data") for seed in seeds]
        metrics = self.metrics([self.context(x, seed, None) for x, seed in zip(drawn, seeds, strict=True)])
        everything = torch.cat(drawn)
        digest = {"n": len(everything), "sha256": sha256(everything.numpy().tobytes())}
        return Row("none", None, 1.0, {"network": 0.0, "guidance": 0.0}, metrics, None, digest)

    def solve(self) -> tuple[Trajectories | None, dict[str, Estimate]]:
        """The reference solve, if there is one, and the flow metrics; a solve that fails makes them null with the reason."""
        names = [name for name in self.spec.metrics if INFO[name].scope == "flow"]
        try:
            solve = self.reference()
            if solve is not None and not bool(solve.stop.isfinite().all()):
                raise ValueError("some trajectories are NaN or infinite")
            return solve, self.flow(solve, names)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            reason = f"the reference solve failed: {one_line(error)}"
            return None, {name: Estimate.missing(reason) for name in names}

    def flow(self, solve: Trajectories | None, names: Sequence[str]) -> dict[str, Estimate]:
        """The flow metrics; a one-step map still has a transport cost, from its own samples of the first seed."""
        cost = None if solve is None else solve.cost
        if cost is None and self.model is not None and self.model.method.steps_allowed:
            n, seed = self.options.samples(self.spec), self.options.seeds(self.spec)[0]
            steps = self.model.method.steps_allowed[0]
            moved = self.model.sample(n, seed=seed, steps=steps).flatten(1) - self.model.noise(0, n, seed).flatten(1)
            cost = moved.double().square().sum(dim=1).numpy()
        context = FlowContext(solve, cost, self.task.w2_squared)
        return {name: METRICS.resolve(name)(context) for name in names}

    def run(self) -> Result:
        """The whole evaluation."""
        began = time.monotonic()
        total = len(self.spec.samplers) + 1
        self.report(self.name, 0, total)
        solve, flow = self.solve()
        if self.model is None:
            rows = (self.data_row(),)
        else:
            rows = []
            for index, sampler in enumerate(self.spec.samplers):
                self.report(self.name, index + 1, total)
                rows.append(self.row(sampler, solve))
            rows = tuple(rows)
        return Result(
            benchmark={"name": self.spec.name, "version": self.spec.version, "sha256": self.spec.sha256},
            task={"name": self.task.name, "version": self.task.version, "kind": self.task.kind},
            model=describe(self.model, self.name),
            rows=rows,
            flow=flow,
            ranked=self.options.ranked,
            seeds=self.options.seeds(self.spec),
            samples_per_seed=self.options.samples(self.spec),
            environment=environment.describe(device_of(self.model.method) if self.model else torch.device("cpu")),
            peak_memory_bytes=environment.peak_memory(),
            seconds=round(time.monotonic() - began, 3),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


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
