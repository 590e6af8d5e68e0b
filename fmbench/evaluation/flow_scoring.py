"""The flow metrics of one model: one shared reference solve from the first noises of the first seed, and a probe of the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fmbench.evaluation.scoring import attempt
from fmbench.execution.checked import guarded_field
from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.flows.flow import DENSITY, EXACT_DENSITY, FLOW_MAP, VELOCITY, Flow, device_of
from fmbench.metrics.flow import FlowContext, Trajectories, concatenate, reference_solve
from fmbench.metrics.jacobian import has_derivative
from fmbench.metrics.probe import ExactDensity, Probe
from fmbench.noise import draw
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate
from fmbench.shapes import Condition, Labels, Points, Velocity
from fmbench.tasks.mixture import MixtureVelocity
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
    """

    model: Model | None
    metrics: Sequence[str]
    seed: int
    flow: Mapping[str, int]
    samples: int
    batch_size: int

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
    def solved(self) -> tuple[Trajectories | None, str | None]:
        """The reference solve, None without a velocity field or when it failed, and then the reason."""
        if self.model is None or self.method is None:
            return None, None
        try:
            with foreign("the reference solve failed"), isolated():
                return self._solve(self.model), None
        except ForeignError as error:
            return None, str(error)

    def endpoints(self) -> Points | None:
        """Where the reference solve ends; None without one."""
        solve, _ = self.solved
        return None if solve is None else solve.stop

    @cached_property
    def probe(self) -> Probe | None:
        """The field seen from the first ``probes`` noises and as many real points; None without a field."""
        if self.model is None or self.method is None:
            return None
        method, task, device = self.method, self.model.task, device_of(self.method)
        n = self.flow["probes"]
        labels = self.model.labels(0, n, self.seed)
        data, data_labels = self._real(n)
        source, target = task.source_mixture, task.target_mixture
        x0 = self.model.noise(0, n, self.seed).to(device)
        derivatives = self._differentiable(x0, labels)
        return Probe(
            velocity=self._field(labels, derivatives),
            x0=x0,
            steps=self.flow["probe_steps"],
            seed=self.seed,
            data=data.to(device),
            data_velocity=self._field(data_labels, derivatives),
            data_log_density=target.log_prob(data.flatten(1)).numpy() if target and not task.finite else None,
            source_log_density=task.source_log_density(),
            oracle=MixtureVelocity(source, target).to(device) if source and target else None,
            levels=task.levels,
            has_density=DENSITY in method.capabilities,
        )

    def _real(self, n: int) -> tuple[Points, Labels | None]:
        """``n`` fresh real points, with their labels for a class-conditional model."""
        assert self.model is not None
        heldout = self.model.task.heldout
        if not self.model.task.finite:
            return draw(heldout.sample, 0, n, self.seed, "data"), None
        labels = draw(lambda k, g: heldout.sample_labelled(k, g)[1], 0, n, self.seed, "data")  # type: ignore[attr-defined]
        return draw(heldout.sample, 0, n, self.seed, "data"), labels if self.model.conditional else None

    @cached_property
    def density(self) -> ExactDensity | None:
        """The flow's own log density with fresh real points, None unless it is exact."""
        if self.model is None or EXACT_DENSITY not in self.model.method.capabilities:
            return None
        flow, task, device = self.model.method, self.model.task, device_of(self.model.method)
        data, labels = self._real(self.flow["probes"])
        cond, target = None if labels is None else Condition(labels.to(device)), task.target_mixture

        def log_density(x: Points) -> Tensor:
            with foreign("log density"), torch.no_grad():
                found = flow.log_density(x.to(device), cond)  # type: ignore[operator]
            if not isinstance(found, Tensor) or found.shape != (len(x),):
                raise ValueError(
                    f"log_density() must return one number per point, got {getattr(found, 'shape', type(found))}"
                )
            return found.detach()

        known = target.log_prob(data.flatten(1)).numpy() if target and not task.finite else None
        return ExactDensity(log_density, data, known, task.levels, self.seed)

    def _cost(self) -> Tensor | None:
        """|Z1 - Z0|^2 of a map, from its own samples of the first seed."""
        if self.model is None or FLOW_MAP not in self.model.method.capabilities:
            return None
        stop = self.model.sample(self.samples, seed=self.seed, batch_size=self.batch_size)
        moved = stop.flatten(1).double() - self.model.noise(0, self.samples, self.seed).flatten(1).double()
        return moved.square().sum(dim=1)

    def score(self) -> dict[str, Estimate]:
        """Every flow metric; one that does not apply or fails is null with the reason, and a failed solve fails them all."""
        names = [name for name in self.metrics if METRICS[name].scope == "flow"]
        if self.model is None:
            return {name: Estimate.missing("real samples are not transported from anywhere") for name in names}
        try:
            solve, failed = self.solved
            if failed is not None:
                raise ForeignError(failed)
            with foreign("the field could not be looked at"), isolated():
                probe, cost = self.probe, self._cost() if solve is None else None
        except ForeignError as error:
            return {name: Estimate.missing(str(error)) for name in names}
        costs = solve.cost if solve is not None else None if cost is None else cost.numpy()
        task = self.model.task
        context = FlowContext(solve, costs, task.w2_squared, probe, self.density)
        return {name: attempt(name, task.kind, [context]) for name in names}
