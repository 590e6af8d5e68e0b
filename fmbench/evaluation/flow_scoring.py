"""The flow metrics of one model: one shared reference solve from the first noises of the first seed, and a probe of the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fmbench.evaluation.scoring import attempt
from fmbench.methods.base import VelocityMethod
from fmbench.metrics.flow import FlowContext, Trajectories, concatenate, reference_solve
from fmbench.metrics.probe import Probe
from fmbench.noise import draw
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate
from fmbench.shapes import Labels, Points
from fmbench.storage.readers import one_line
from fmbench.tasks.mixture import MixtureVelocity
from fmbench.zoo.model import Model, device_of


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
    def method(self) -> VelocityMethod | None:
        """The model's method when it has a velocity field."""
        method = self.model.method if self.model else None
        return method if isinstance(method, VelocityMethod) else None

    @cached_property
    def solve(self) -> Trajectories | None:
        """The reference solve; None without a velocity field. Raises ValueError when trajectories are not finite."""
        if self.model is None or self.method is None:
            return None
        n, device = self.flow["samples"], device_of(self.method)
        noise, labels = self.model.noise(0, n, self.seed), self.model.labels(0, n, self.seed)
        parts = []
        with torch.no_grad():
            for start in range(0, n, self.batch_size):
                rows = slice(start, start + self.batch_size)
                chosen = None if labels is None else labels[rows].to(device)
                parts.append(reference_solve(self.method.field(chosen), noise[rows].to(device), self.flow["steps"]))
        solve = concatenate(parts)
        if not bool(solve.stop.isfinite().all()):
            raise ValueError("some trajectories are NaN or infinite")
        return solve

    def endpoints(self) -> Points | None:
        """Where the reference solve ends; None without one."""
        try:
            return None if self.solve is None else self.solve.stop
        except (ValueError, RuntimeError, ArithmeticError):
            return None

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
        return Probe(
            velocity=method.field(None if labels is None else labels.to(device)),
            x0=self.model.noise(0, n, self.seed).to(device),
            steps=self.flow["probe_steps"],
            seed=self.seed,
            data=data.to(device),
            data_velocity=method.field(None if data_labels is None else data_labels.to(device)),
            data_log_density=target.log_prob(data.flatten(1)).numpy() if target and not task.finite else None,
            source_log_density=task.source_log_density(),
            oracle=MixtureVelocity(source, target).to(device) if source and target else None,
            levels=task.levels,
            has_density=method.has_density,
        )

    def _real(self, n: int) -> tuple[Points, Labels | None]:
        """``n`` fresh real points, with their labels for a class-conditional model."""
        assert self.model is not None
        heldout = self.model.task.heldout
        if not self.model.task.finite:
            return draw(heldout.sample, 0, n, self.seed, "data"), None
        labels = draw(lambda k, g: heldout.sample_labelled(k, g)[1], 0, n, self.seed, "data")  # type: ignore[attr-defined]
        return draw(heldout.sample, 0, n, self.seed, "data"), labels if self.model.conditional else None

    def _cost(self) -> Tensor | None:
        """|Z1 - Z0|^2 of a one-step map, from its own samples of the first seed."""
        if self.model is None or not self.model.method.steps_allowed:
            return None
        steps = self.model.method.steps_allowed[0]
        stop = self.model.sample(self.samples, seed=self.seed, steps=steps, batch_size=self.batch_size)
        moved = stop.flatten(1).double() - self.model.noise(0, self.samples, self.seed).flatten(1).double()
        return moved.square().sum(dim=1)

    def score(self) -> dict[str, Estimate]:
        """Every flow metric; one that does not apply or fails is null with the reason, and a failed solve fails them all."""
        names = [name for name in self.metrics if METRICS[name].scope == "flow"]
        if self.model is None:
            return {name: Estimate.missing("real samples are not transported from anywhere") for name in names}
        try:
            solve, probe = self.solve, self.probe
            cost = self._cost() if solve is None else None
        except (ValueError, RuntimeError, ArithmeticError) as error:
            reason = f"the reference solve failed: {one_line(error)}"
            return {name: Estimate.missing(reason) for name in names}
        costs = solve.cost if solve is not None else None if cost is None else cost.numpy()
        task = self.model.task
        context = FlowContext(solve, costs, task.w2_squared, probe)
        return {name: attempt(name, task.kind, [context]) for name in names}
