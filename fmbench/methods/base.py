"""The base classes of methods: a generative model with a training loss; velocity fields support more metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fmbench import moved
from fmbench.flows.flow import Flow
from fmbench.flows.network import evaluate
from fmbench.flows.velocity import VelocityFlow
from fmbench.registry import create
from fmbench.shapes import Condition, Labels, Points, Times, as_condition
from fmbench.tasks.base import Task


@dataclass(frozen=True)
class Batch:
    """One training minibatch.

    Attributes:
        x0, x1: source and data points, (batch, *shape).
        labels: of ``x1``, or None.
        progress: share of the training that is done, from 0 at the first step to almost 1, for losses with a schedule.
        base: the trained model that a loss asks at its own points, put there by the source of batches; it is no part of what is trained.
    """

    x0: Points
    x1: Points
    labels: Labels | None = None
    progress: float = 0.0
    base: Flow | None = None

    @property
    def cond(self) -> Condition | None:
        """The labels as a condition."""
        return as_condition(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, x0=self.x0.to(device), x1=self.x1.to(device), labels=labels)


BatchSource = Callable[[torch.Generator], Batch]
"""Draws one minibatch; everything random comes from the generator, so that step ``k`` of a run is the same after a resume."""


class Method(Flow):
    """A generative model with a training loss.

    Subclasses take the network first and their own parameters after it, typed and with defaults (they are the keys of a recipe's
    ``[method]`` table), and implement :meth:`loss`; :meth:`sample` comes from the kind of flow that they are.

    Attributes:
        objective: the loss as one equation, for ``fmbench info``.
        trains: False for a method that changes no weight: a schedule, a closed form.
        needs_base: whether it starts from a trained model, which a recipe names as ``teacher``.
        gaussian_source_only: whether the method is only defined when the source is N(0, I).
    """

    objective: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    needs_base: ClassVar[bool] = False
    gaussian_source_only: ClassVar[bool] = False

    def __init__(self, net: nn.Module) -> None:
        nn.Module.__init__(self)
        self.net = net

    @classmethod
    def build_net(cls, task: Task, net: dict, conditional: bool) -> nn.Module:
        """The network for a task from a recipe's ``[net]`` table. Methods without a trained network override this."""
        arguments = {k: v for k, v in net.items() if k != "name"}
        classes = task.num_classes if conditional else 0
        return create("nets", net["name"], shape=task.shape, num_classes=classes, **arguments)

    @classmethod
    def parameters_for(cls, task: Task) -> Mapping[str, Any]:  # noqa: ARG003
        """Parameters that depend on the task, by a rule the method states; ``fmbench train --method`` writes them into the recipe."""
        return {}

    def batches(self, task: Task, base: Flow | None, batch_size: int) -> BatchSource:
        """The source of minibatches: fresh source points and training data, independently paired."""

        def source(generator: torch.Generator) -> Batch:
            x0 = task.source.sample(batch_size, generator)
            if task.num_classes:
                return Batch(x0, *task.target.sample_labelled(batch_size, generator))  # type: ignore[attr-defined]
            return Batch(x0, task.target.sample(batch_size, generator))

        return source

    def initialise(self, base: Flow) -> None:
        """Start from the weights of a base; called once before training when the recipe names one."""
        self.net.load_state_dict(base.net.state_dict())  # type: ignore[union-attr]

    def diagnostics(self, task: Task) -> dict[str, float]:
        """Measurements of the trained method for its model card; none by default."""
        return {}

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Scalar training loss of one minibatch."""


@contextmanager
def keyed_dropout(net: nn.Module, device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """Context in which dropout of a training ``net`` (its ``dropout`` attribute is its rate) is determined by ``generator``.

    torch draws dropout masks from the global generator; it is seeded here from ``generator`` and put back afterwards. A net without
    dropout, or in evaluation mode, takes nothing from either.
    """
    if not (net.training and getattr(net, "dropout", 0.0)):
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator))
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class VelocityMethod(VelocityFlow, Method):
    """A method whose flow is the velocity field of an ODE from source to data."""

    def predict(self, x: Points, t: Times, batch: Batch, generator: torch.Generator) -> Points:
        """The network's velocity in training, labels dropped with probability ``label_dropout`` for guidance later."""
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"[method] label_dropout must be in [0, 1], got {self.label_dropout}")
        labels = batch.labels if getattr(self.net, "num_classes", 0) else None
        if labels is not None and self.label_dropout > 0:
            dropped = torch.rand(len(labels), generator=generator) < self.label_dropout
            labels = labels.masked_fill(dropped.to(labels.device), self.net.num_classes)  # type: ignore[arg-type]
        with keyed_dropout(self.net, x.device, generator):
            return evaluate(self.net, x, t, cond=as_condition(labels))


def uniform_times(batch: Batch, generator: torch.Generator) -> Times:
    """One time per sample, uniform on [0, 1], drawn on the CPU."""
    return torch.rand(len(batch.x0), generator=generator).to(batch.x0.device)


def __getattr__(name: str) -> Any:
    if name == "Budget":
        return moved.attribute(__name__, name, "fmbench.records.sampler", "Sampler")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
