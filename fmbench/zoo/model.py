"""A loaded model: a method with its weights, its task, and the harness's way of sampling it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fmbench.execution.checked import checked_points
from fmbench.execution.foreign import foreign, isolated
from fmbench.flows.evaluations import Evaluations, counting, require_counted
from fmbench.flows.flow import LABELS, Flow, as_draws, device_of
from fmbench.noise import BLOCK, Draws, draw
from fmbench.records.recipe import Recipe
from fmbench.records.sampler import Sampler
from fmbench.registry import SOLVERS
from fmbench.shapes import Condition, Labels, Points, as_condition
from fmbench.tasks.base import Task
from fmbench.transfers import Gathered


@dataclass(frozen=True)
class Generated:
    """Samples with what they cost: rows through the networks, by purpose."""

    samples: Points
    evaluations: Evaluations


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode inside; afterwards every part of it is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    training = any(mode for _, mode in modes)
    try:
        if training:
            with isolated():
                module.eval()
        yield
    finally:
        if training:
            with isolated():
                module.train()
        for part, mode in modes:
            part.training = mode


def generate(
    flow: Flow,
    draws: Draws | Points,
    sampler: Sampler,
    cond: Condition | Labels | None = None,
    batch_size: int = BLOCK,
    shape: tuple[int, ...] | None = None,
) -> Generated:
    """Sample in minibatches, on the flow's device; the result lives on the CPU.

    No minibatch waits for the one before: what is drawn and made travels while a GPU computes. Adaptive solvers always get one noise block
    (256 samples) at a time: their error norm runs over the batch, and the result must not depend on ``batch_size``. The networks are in
    evaluation mode meanwhile, and what they do to the process ends with each minibatch.
    ``draws`` may be source points; samples have the ``shape`` of the source unless it is given, as for a flow in a latent space.

    Raises ValueError for batch_size < 1, for a sampler that the flow does not accept, for samples that are no points like their source, and
    when a model with parameters was sampled without a counted evaluation; what the flow raises passes through.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    flow.require(sampler)
    size = BLOCK if sampler.make_solver().adaptive else batch_size
    draws, cond, device = as_draws(draws).drawn(), as_condition(cond), device_of(flow)
    shape, made = draws.start().shape[1:] if shape is None else shape, Gathered()
    # Not inference mode: no faster where it was measured, it hides changes in place and bars flows that take gradients of their own.
    with torch.no_grad(), evaluating(flow), counting(flow.networks(), 1 + draws.start()[0].ndim) as count:
        for start in range(0, len(draws), size):
            rows = slice(start, min(start + size, len(draws)))
            part = draws.rows(rows.start, rows.stop).on(device)
            chosen = None if cond is None else cond.rows(rows).to(device)
            with isolated():
                found = checked_points(
                    flow.sample(part, sampler, chosen), torch.empty((len(part), *shape), device=device), "the sample"
                )
            made.add(found.detach().float())
        samples = made.whole()
    require_counted(count, sum(p.numel() for p in flow.parameters()))
    return Generated(samples, count)


@dataclass
class Model:
    """A model ready to sample.

    Attributes:
        name: ``task/entry`` or the name given.
        task: its task.
        method: the flow with its weights, in evaluation mode.
        recipe: how it was made, None for wrapped modules.
        identity: ``weights_sha256``, ``code_sha256`` and the like: what a result says was evaluated.
    """

    name: str
    task: Task
    method: Flow
    recipe: Recipe | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        method = "wrapped" if self.recipe is None else self.recipe.method["name"]
        return f"Model({self.name!r}, {method}, {self.parameters:,} parameters)"

    @property
    def conditional(self) -> bool:
        """Whether the network takes class labels."""
        return LABELS in self.method.capabilities

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.method.parameters())

    def draws(self, start: int, stop: int, seed: int) -> Draws:
        """Everything random of rows ``start`` to ``stop`` of an evaluation seed, by the noise contract."""
        return Draws(seed, start, stop, self.method.source(self.task).sample)

    def noise(self, start: int, stop: int, seed: int) -> Points:
        """Source points ``start`` to ``stop`` of an evaluation seed, by the noise contract."""
        return self.draws(start, stop, seed).start()

    def labels(self, start: int, stop: int, seed: int) -> Labels | None:
        """Class labels of the same samples, uniform over classes; None for unconditional models."""
        if not self.conditional:
            return None
        classes = self.task.num_classes
        return draw(lambda n, g: torch.randint(classes, (n,), generator=g), start, stop, seed, "label")

    def rows(
        self, start: int, stop: int, seed: int, sampler: Sampler, batch_size: int, labels: Labels | None = None
    ) -> Generated:
        """Samples ``start`` to ``stop`` of an evaluation seed, with the labels given or those of the noise contract.

        An adaptive solver chooses its steps for a block of 256 samples as one, so it solves every block whole, and what was not asked for
        is cut: a sample does not depend on how many others are. The evaluations are those of the samples asked for. Raises what
        :func:`generate` raises.
        """
        if not sampler.make_solver().adaptive:
            return self._rows(start, stop, seed, sampler, batch_size, labels)
        samples, count = [], Evaluations()
        for first in range(start // BLOCK * BLOCK, stop, BLOCK):
            kept = slice(max(start - first, 0), min(stop - first, BLOCK))
            whole = None
            if labels is not None:
                whole = self.labels(first, first + BLOCK, seed)
                assert whole is not None
                whole[kept] = labels[first + kept.start - start : first + kept.stop - start].to(whole)
            made = self._rows(first, first + BLOCK, seed, sampler, batch_size, whole)
            samples.append(made.samples[kept])
            for purpose, rows in made.evaluations.rows.items():
                # Every evaluation is of the whole block, so that this is a whole number.
                count.rows[purpose] = count.rows.get(purpose, 0) + rows * (kept.stop - kept.start) // BLOCK
        return Generated(torch.cat(samples), count)

    def _rows(
        self, start: int, stop: int, seed: int, sampler: Sampler, batch_size: int, labels: Labels | None
    ) -> Generated:
        chosen = self.labels(start, stop, seed) if labels is None else labels
        return generate(self.method, self.draws(start, stop, seed), sampler, chosen, batch_size, self.task.shape)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        solver: str | None = None,
        steps: int | None = None,
        guidance: float = 1.0,
        labels: Labels | None = None,
        batch_size: int = BLOCK,
    ) -> Points:
        """``n`` samples, float32 on the CPU, (n, *task.shape); sample ``i`` depends on (seed, i) only.

        ``solver`` and ``steps`` default to those of the flow: euler and 32, 1 for a map.

        Raises ValueError for n < 1, steps < 1 and unknown solvers, and
        ForeignError, a ValueError in one line whose cause is the error itself, for whatever the model raises.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        default = self.method.default
        solver = default.solver if solver is None else solver
        kind = SOLVERS.resolve(solver)
        if steps is None and not (kind.adaptive or kind.stepless):
            steps = default.steps
        sampler = Sampler(solver, steps, guidance=guidance)
        if (reason := self.method.accepts(sampler)) is not None:
            raise ValueError(f"{self.name} is not sampled by {sampler.label}: {reason}")
        if labels is not None:
            self._check_labels(labels, n)
        with foreign():
            return self.rows(0, n, seed, sampler, batch_size, labels).samples

    def _check_labels(self, labels: Labels, n: int) -> None:
        """Raise ValueError for labels that are not one class of the task for each of ``n`` samples."""
        if len(labels) != n:
            raise ValueError(f"{len(labels)} labels for {n} samples")
        if not self.conditional:
            raise ValueError(f"{self.name} takes no labels")
        if not (labels.min() >= 0 and labels.max() < self.task.num_classes):
            raise ValueError(
                f"labels must be in [0, {self.task.num_classes}), got {int(labels.min())} to {int(labels.max())}"
            )
