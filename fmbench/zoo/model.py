"""A loaded model: a method with its weights, its task, and the harness's way of sampling it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fmbench import nfe
from fmbench.execution.checked import checked_points
from fmbench.execution.foreign import foreign, isolated
from fmbench.methods.base import Method, VelocityMethod
from fmbench.noise import BLOCK, draw
from fmbench.records.recipe import Recipe
from fmbench.records.sampler import Sampler
from fmbench.registry import SOLVERS
from fmbench.shapes import Labels, Points
from fmbench.tasks.base import Task


@dataclass(frozen=True)
class Generated:
    """Samples with what they cost: rows through the network, for the model itself and for guidance."""

    samples: Points
    evaluations: nfe.Evaluations


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
    method: Method, noise: Points, sampler: Sampler, labels: Labels | None = None, batch_size: int = BLOCK
) -> Generated:
    """Sample in minibatches, on the method's device; noise and result live on the CPU.

    Adaptive solvers always get one noise block (256 samples) at a time: their error norm runs over the batch, and the result must
    not depend on ``batch_size``. The network is in evaluation mode meanwhile, and what it does to the process ends with each minibatch.
    Raises ValueError for batch_size < 1 and for samples that are no points like their noises; what the method raises passes through.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    if method.steps_allowed and sampler.steps not in method.steps_allowed:
        allowed = ", ".join(map(str, method.steps_allowed))
        raise ValueError(f"this model samples with steps {allowed} only, got {sampler.steps}")
    size = BLOCK if sampler.make_solver().adaptive else batch_size
    device = device_of(method)
    chunks = []
    with torch.no_grad(), evaluating(method), nfe.counting(method.net) as evaluations:
        for start in range(0, len(noise), size):
            rows = slice(start, start + size)
            # A copy: what a method does to its argument must not reach the noise of others.
            chunk, chunk_labels = noise[rows].to(device, copy=True), None if labels is None else labels[rows].to(device)
            with isolated():
                made = checked_points(method.sample(chunk, sampler, chunk_labels), chunk, "the sample")
            chunks.append(made.detach().float().cpu())
    return Generated(torch.cat(chunks), evaluations)


def device_of(method: nn.Module) -> torch.device:
    """Where the method's parameters or buffers live, the CPU when it has none."""
    for tensor in (*method.parameters(), *method.buffers()):
        return tensor.device
    return torch.device("cpu")


@dataclass
class Model:
    """A model ready to sample.

    Attributes:
        name: ``task/entry`` or the name given.
        task: its task.
        method: the method with its weights, in evaluation mode.
        recipe: how it was made, None for wrapped modules.
        identity: ``weights_sha256``, ``code_sha256`` and the like: what a result says was evaluated.
    """

    name: str
    task: Task
    method: Method
    recipe: Recipe | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def conditional(self) -> bool:
        """Whether the network takes class labels."""
        return bool(getattr(self.method.net, "num_classes", 0))

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.method.parameters())

    def noise(self, start: int, stop: int, seed: int) -> Points:
        """Source points ``start`` to ``stop`` of an evaluation seed, by the noise contract."""
        return draw(self.task.source.sample, start, stop, seed, "source")

    def labels(self, start: int, stop: int, seed: int) -> Labels | None:
        """Class labels of the same samples, uniform over classes; None for unconditional models."""
        if not self.conditional:
            return None
        classes = self.task.num_classes
        return draw(lambda n, g: torch.randint(classes, (n,), generator=g), start, stop, seed, "label")

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        solver: str = "euler",
        steps: int | None = None,
        guidance: float = 1.0,
        labels: Labels | None = None,
        batch_size: int = BLOCK,
    ) -> Points:
        """``n`` samples, float32 on the CPU, (n, *task.shape); sample ``i`` depends on (seed, i) only.

        An adaptive solver chooses its steps for a block of 256 samples as one: there, ``i`` in the last block of an ``n`` that is no
        multiple of 256 also depends, within the tolerance of the solver, on how many others are in it.

        ``steps`` defaults to 32, or to the only number the model can do. Raises ValueError for n < 1, steps < 1 and unknown solvers, and
        ForeignError, a ValueError in one line whose cause is the error itself, for whatever the model raises.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if steps is None and not SOLVERS.resolve(solver).adaptive:
            steps = (self.method.steps_allowed or (32,))[0]
        sampler = Sampler(solver, steps, guidance=guidance)
        if guidance != 1.0 and not isinstance(self.method, VelocityMethod):
            raise ValueError(f"guidance {guidance} needs a velocity field; {self.name} is a map")
        if labels is None:
            labels = self.labels(0, n, seed)
        elif len(labels) != n:
            raise ValueError(f"{len(labels)} labels for {n} samples")
        elif not self.conditional:
            raise ValueError(f"{self.name} takes no labels")
        elif not (labels.min() >= 0 and labels.max() < self.task.num_classes):
            raise ValueError(
                f"labels must be in [0, {self.task.num_classes}), got {int(labels.min())} to {int(labels.max())}"
            )
        noise = self.noise(0, n, seed)
        with foreign():
            return generate(self.method, noise, sampler, labels, batch_size).samples
