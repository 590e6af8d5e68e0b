"""The flow metrics of one model: one shared reference solve from the first noises of the first seed, and a probe of the field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fmbench.evaluation.scoring import attempt
from fmbench.execution.checked import guarded_field
from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.flows.flow import EXACT_DENSITY, FEATURES, FLOW_MAP, LABELS, VELOCITY, Flow, device_of
from fmbench.metrics.evidence import Evidence
from fmbench.metrics.flow import Trajectories, concatenate, reference_solve
from fmbench.metrics.jacobian import has_derivative
from fmbench.metrics.reference import Part
from fmbench.records.metric import METRICS, TIERS
from fmbench.records.result import Estimate
from fmbench.shapes import Condition, Labels, Points, Velocity
from fmbench.tasks.base import Task
from fmbench.zoo.model import Model


@dataclass
class FlowScorer:
    """What is measured on the velocity field of a model, or on real data (``model`` None), where nothing flows.

    Attributes:
        model: the model.
        metrics: names of registered metrics; those of another scope are skipped.
        seed: first evaluation seed: the solve starts from the noise of its first samples.
        flow: ``samples`` and ``steps`` of the reference solve, ``probes`` and ``probe_steps`` of the probe.
        samples: samples per seed, for the transport cost of one-step maps.
        batch_size: trajectories at a time.
        task: of real data, which no model tells; that of the model unless given.
    """

    model: Model | None
    metrics: Sequence[str]
    seed: int
    flow: Mapping[str, int]
    samples: int
    batch_size: int
    task: Task | None = None

    @cached_property
    def method(self) -> Flow | None:
        """The model's flow when it has a velocity field."""
        flow = self.model.method if self.model else None
        return flow if flow is not None and VELOCITY in flow.capabilities else None

    def _field(self, labels: Labels | None, derivatives: bool = True) -> Velocity:
        """The velocity with its labels bound, guarded."""
        assert self.method is not None
        bound = None if labels is None else Condition(labels.to(device_of(self.method)))
        return guarded_field(self.method.field(bound), derivatives)  # type: ignore[operator]

    def _differentiable(self, x: Points, labels: Labels | None) -> bool:
        """False for a field that switches gradients off inside, so that its derivatives come out zero though it changes with ``x``."""
        few, field = x[:4], self._field(None if labels is None else labels[:4])
        times = torch.linspace(0.2, 0.8, len(few), device=few.device)
        step = 1e-2 * float(few.abs().max())
        try:
            with torch.no_grad():
                if torch.equal(field(few + step, times), field(few - step, times)):
                    return True
            return has_derivative(field, few, times)
        except (ValueError, RuntimeError):
            return True  # the metric that differentiates says what is wrong

    def _solve(self, model: Model) -> Trajectories:
        n, device = self.flow["samples"], device_of(model.method)
        noise, labels = model.noise(0, n, self.seed), model.labels(0, n, self.seed)
        parts = []
        with torch.no_grad():
            for start in range(0, n, self.batch_size):
                rows = slice(start, start + self.batch_size)
                field = self._field(None if labels is None else labels[rows])
                parts.append(reference_solve(field, noise[rows].to(device), self.flow["steps"]))
        solve = concatenate(parts)
        if not bool(solve.stop.isfinite().all()):
            raise ValueError("some trajectories are NaN or infinite")
        return solve

    @cached_property
    def _solved(self) -> Part:
        def solve() -> Trajectories:
            assert self.model is not None
            with foreign("the reference solve failed"), isolated():
                return self._solve(self.model)

        return Part(solve)

    def endpoints(self) -> Points | None:
        """Where the reference solve ends; None without one."""
        try:
            return None if self.method is None else self._solved.get().stop
        except ForeignError:
            return None

    def _looked_at(self, make: Callable[[Any], Any]) -> Part:
        """A part made with what a field is looked at from; nothing of a field whose reference solve fails is."""

        def made() -> Any:
            self._solved.get()
            with foreign("the field could not be looked at"), isolated():
                return make(self._start)

        return Part(made)

    @cached_property
    def _start(self) -> tuple[Points, Labels | None, bool]:
        """The first ``probes`` noises on the flow's device, their labels, and whether the field can be differentiated there."""
        assert self.model is not None
        n, device = self.flow["probes"], device_of(self.model.method)
        x0, labels = self.model.noise(0, n, self.seed).to(device), self.model.labels(0, n, self.seed)
        return x0, labels, self._differentiable(x0, labels)

    @cached_property
    def _real(self) -> tuple[Points, Labels | None]:
        """Fresh real points, with their labels for a class-conditional model."""
        assert self.model is not None
        points, labels = self.model.task.unseen(self.flow["probes"], self.seed)
        return points, labels if LABELS in self.model.method.capabilities else None

    def _of_field(self) -> dict[str, Any]:
        """Parts of a velocity field."""
        return {
            "trajectories": self._solved,
            "cost": Part(lambda: self._solved.get().cost),
            "velocity": self._looked_at(lambda at: self._field(at[1], at[2])),
            "x0": self._looked_at(lambda at: at[0]),
            "data_velocity": self._looked_at(lambda at: self._field(self._real[1], at[2])),
        }

    def _of_map(self) -> dict[str, Any]:
        """|Z1 - Z0|^2 of a map, from its own samples of the first seed."""

        def cost() -> Any:
            assert self.model is not None
            stop = self.model.sample(self.samples, seed=self.seed, batch_size=self.batch_size)
            moved = stop.flatten(1).double() - self.model.noise(0, self.samples, self.seed).flatten(1).double()
            return moved.square().sum(dim=1).numpy()

        return {"cost": Part(cost)}

    def _of_density(self) -> dict[str, Any]:
        """The flow's own log density."""
        assert self.model is not None
        flow, device = self.model.method, device_of(self.model.method)

        def log_density(x: Points) -> Tensor:
            labels = self._real[1]
            cond = None if labels is None else Condition(labels.to(device))
            with foreign("log density"), torch.no_grad():
                found = flow.log_density(x.to(device), cond)  # type: ignore[operator]
            if not isinstance(found, Tensor) or found.shape != (len(x),):
                raise ValueError(
                    f"log_density() must return one number per point, got {getattr(found, 'shape', type(found))}"
                )
            return found.detach()

        return {EXACT_DENSITY: log_density}

    def evidence(self) -> Evidence:
        """What the metrics of the flow see."""
        task = self.task or (self.model.task if self.model else None)
        parts: dict[str, Any] = {name: Part(make) for name, make in (task.provided() if task else {}).items()}
        if self.model is None or task is None:
            return Evidence(parts, task.space.provides if task else (), who="real data")
        flow = self.model.method
        for capability, of in ((FLOW_MAP, self._of_map), (VELOCITY, self._of_field), (EXACT_DENSITY, self._of_density)):
            if capability in flow.capabilities:
                parts |= of()
        parts |= {
            "steps": self.flow["probe_steps"],
            "data": Part(lambda: self._real[0].to(device_of(flow))),
            "data_log_density": Part(lambda: task.known_log_density(self._real[0]), optional=True),
        }
        if "oracle" in parts:
            parts["oracle"] = Part(lambda made=parts["oracle"]: made.get().to(device_of(flow)))
        marks = {*task.space.provides, *(flow.capabilities - {FEATURES})}
        return Evidence(parts, marks, seed=self.seed, kind=task.kind)

    @cached_property
    def seen(self) -> Evidence:
        """The evidence, whose parts are made once for all tiers."""
        return self.evidence()

    def score(self, tiers: Sequence[str] = TIERS) -> dict[str, Estimate]:
        """Every flow metric of some tiers.

        One that does not apply or fails is null with the reason, and a failed solve fails all that look at the field.
        """
        chosen = [n for n in self.metrics if METRICS[n].scope == "flow" and METRICS[n].tier in tiers]
        return {name: attempt(name, [self.seen]) for name in chosen}
