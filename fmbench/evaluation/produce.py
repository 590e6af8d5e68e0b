"""Orders for samples: an order describes them in plain data, and :func:`produce` draws the same ones in any process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fmbench.evaluation.acceleration import Acceleration, accelerated
from fmbench.evaluation.identity import identified
from fmbench.evaluation.units import Unit, stored
from fmbench.execution.executor import Executor, Report, nothing
from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.noise import BLOCK
from fmbench.records.names import check_name
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
from fmbench.storage.files import fingerprint
from fmbench.zoo.model import Model
from fmbench.zoo.resolve import load

UNIT = 8 * BLOCK
"""Samples per unit."""


@dataclass(frozen=True)
class Order:
    """The samples ``start`` to ``stop`` of one sampler and evaluation seed of a model.

    Attributes:
        model: the string that names it.
        identity: fingerprint of its hashes (:func:`identity_of`): an order is for that very model.
        task: name of the task.
        sampler: how the samples are drawn.
        seed, start, stop: evaluation seed and rows.
        batch_size, device, acceleration: how the network is called.
    """

    model: str
    identity: str
    task: str
    sampler: Sampler
    seed: int
    start: int
    stop: int
    batch_size: int = 1024
    device: str = "cpu"
    acceleration: Acceleration = dataclasses.field(default_factory=Acceleration)

    @property
    def file(self) -> str:
        """File name of its unit, in a folder named by everything else that determines it."""
        name = f"{self.sampler.label}-s{self.seed}-{self.start}-{self.stop}.safetensors"
        return check_name(name, "a unit of samples")

    def plain(self) -> dict[str, Any]:
        """The order as plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Order:
        """The order of :meth:`plain`. Raises ValueError for values that no sampler or acceleration has."""
        grid = plain["sampler"]["grid"]
        sampler = Sampler(**{**plain["sampler"], "grid": None if grid is None else tuple(grid)})
        parts = {"sampler": sampler, "acceleration": Acceleration(**plain["acceleration"])}
        return cls(**{**plain, **parts})


def identity_of(model: Model) -> str:
    """Fingerprint of the hashes that identify a model."""
    return fingerprint([model.name, model.identity])


def sampled(model: Model, order: Order) -> Unit:
    """The samples of an order from a loaded model, on its device. Raises ForeignError for anything that the model raises."""
    with foreign():
        made = model.rows(order.start, order.stop, order.seed, order.sampler, order.batch_size)
    return Unit(made.samples, dict(made.evaluations.rows))


@lru_cache(maxsize=1)
def _loaded(name: str, task: str, device: str, identity: str) -> Model:
    """The model of an order. Raises ValueError in one line for what cannot be loaded, or is another model by now."""
    with foreign(), isolated():
        model = load(name, task=task, device=device)
    model = identified(model)
    if identity_of(model) != identity:
        raise ValueError(f"{name} was changed while it was sampled; run the same command again")
    return model


def produce(order: Order) -> Unit:
    """The samples of an order and the evaluations that they took, the same in every process.

    Raises ValueError in one line for a model that cannot be loaded or was changed, ForeignError for whatever it raises.
    """
    model = _loaded(order.model, order.task, order.device, order.identity)
    with foreign(), accelerated(model.method, order.acceleration):
        return sampled(model, order)


def merged(parts: Sequence[Unit]) -> Unit:
    """Units in their order as one: their samples one after the other, and the sums of their evaluations."""
    purposes = dict.fromkeys(purpose for part in parts for purpose in part.counts)
    counts = {purpose: sum(part.counts.get(purpose, 0) for part in parts) for purpose in purposes}
    return Unit(torch.cat([part.samples for part in parts]), counts)


def deliver(plain: Mapping[str, Any], _report: Report = nothing) -> None:
    """Carry out ``{order, folder}``: produce the unit of an order, unless it is there, and store it in the folder."""
    order = Order.of(plain["order"])
    shape = TASKS.resolve(order.task)().shape
    stored(Path(plain["folder"]) / order.file, (order.stop - order.start, *shape), lambda: produce(order))


@dataclass(frozen=True)
class Helpers:
    """An executor that may sample units of a model ahead, and the string that names the model to it."""

    executor: Executor
    model: str

    def fetch(self, orders: Sequence[Order], folder: Path, finished: Report = nothing) -> None:
        """Store the units of orders in a folder, several at a time.

        An order that fails is skipped; the error appears where its unit is needed. Raises ForeignError in one line when a process died over
        one: in this process, it would end everything.
        """
        plain = [{"order": order.plain(), "folder": str(folder.resolve())} for order in orders]
        for order, done in zip(orders, self.executor.map(deliver, plain, finished=finished), strict=True):
            if done.died:
                raise ForeignError(f"{order.sampler.label}, seed {order.seed}: {done.error}")
