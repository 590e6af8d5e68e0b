"""Latency belongs to an architecture, a sampler and a machine, not to weights: measured once for each, used by every entry that shares it.

Cells of one table are measured in turns (:func:`~fmbench.evaluation.cost.latency.measure_all`), so that a busy moment of the machine affects
them all, and stored in ``latency.json`` of the output folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

from fmbench.evaluation.acceleration import Acceleration, accelerated
from fmbench.evaluation.cost.costs import one_batch
from fmbench.evaluation.cost.latency import Bounds, Job, best_throughput, device_name, fitting, measure_all
from fmbench.evaluation.identity import can_be_told
from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.flows.flow import Flow
from fmbench.records.conditions import Closed
from fmbench.records.latency import Batch, Latency
from fmbench.records.sampler import Sampler
from fmbench.records.typed import plain, require
from fmbench.storage.files import fingerprint, write_json
from fmbench.storage.readers import read_json
from fmbench.zoo.foreign import lent
from fmbench.zoo.model import Model, device_of, evaluating

FILE = "latency.json"
LARGEST = 16 << 20
KEY = 12
"""Hexadecimal digits of a key."""
PLAIN = Acceleration()
PER_BATCH = Batch.__struct_fields__
"""Fields of every batch size; the conditions are the same for all."""


# -- what a time depends on --------------------------------------------------------------------------------------------


def _is_code(name: str, value: Any) -> bool:
    return not name.startswith("_") and isinstance(value, FunctionType | property | classmethod | staticmethod)


def _sampling_code(flow: Flow) -> list[list[str]]:
    """The defining class of each sampling function of a flow, by name: methods that differ in training only share them all."""
    kinds = [kind for kind in type(flow).__mro__ if kind.__module__.startswith("fmbench.flows.")]
    names = sorted({name for kind in kinds for name, value in vars(kind).items() if _is_code(name, value)})
    found = [(name, next(kind for kind in type(flow).__mro__ if name in vars(kind))) for name in names]
    return [[name, f"{kind.__module__}.{kind.__qualname__}"] for name, kind in found]


def _structure(flow: Flow) -> list[Any]:
    """The modules of a flow with their ``repr``, and shape and dtype of every tensor in them."""
    modules = [
        [name, f"{type(part).__module__}.{type(part).__qualname__}", part.extra_repr()]
        for name, part in flow.named_modules()
        if name
    ]
    tensors = (*flow.named_parameters(), *flow.named_buffers())
    return [modules, [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors]]


def _ours(model: Model) -> bool:
    """Whether the model consists of modules of fmbench and torch only; False for a wrapped one, which calls a function outside modules."""
    parts = model.method.modules()
    return model.recipe is not None and all(type(p).__module__.startswith(("fmbench.", "torch.")) for p in parts)


def timing_key(
    model: Model, sampler: Sampler, batches: Sequence[int], device: str, acceleration: Acceleration = PLAIN
) -> str | None:
    """Hash of everything the latency of a model depends on: architecture, sampler, batch sizes, device, threads, precision, compilation.

    For adaptive solvers, whose steps depend on the weights, and for code outside fmbench, which may use the weights in any way, the identity
    of the model is part of the key. None when the identity is unknown: such a model is timed every time.
    """
    flow = model.method
    with foreign("the architecture could not be looked at"), isolated():
        parts: list[Any] = [_sampling_code(flow), _structure(flow), list(model.task.shape), model.conditional]
    if sampler.make_solver().adaptive or not _ours(model):
        if not can_be_told(model):
            return None
        parts.append([model.identity.get(name) for name in ("weights_sha256", "code_sha256", "recipe")])
    here = [
        device_name(torch.device(device)),
        torch.get_num_threads(),
        dataclasses.asdict(acceleration),
        torch.__version__,
    ]
    return fingerprint([parts, plain(dataclasses.asdict(sampler)), list(batches), here])[:KEY]


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """A latency to measure: of a model with a sampler, under a name that entries may share (None: not shared)."""

    key: str | None
    model: Model
    sampler: Sampler


def wishes(
    model: Model, samplers: Sequence[Sampler], batches: Sequence[int], device: str, acceleration: Acceleration = PLAIN
) -> list[Wish]:
    """The latencies to measure of a model: one for each sampler that it allows, under its :func:`timing_key`."""
    return [Wish(timing_key(model, s, batches, device, acceleration), model, s) for s in samplers]


@contextmanager
def _around(model: Model) -> Iterator[None]:
    with foreign(), isolated(), torch.no_grad(), evaluating(model.method):
        yield


def _jobs(wish: Wish, batches: Sequence[int]) -> list[Job]:
    model, device = wish.model, device_of(wish.model.method)
    return [
        Job(
            lambda size=size: one_batch(model, wish.sampler, size),
            device,
            size,
            model.method.networks()["network"],
            lambda: _around(model),
        )
        for size in batches
    ]


def latency_record(records: Sequence[dict[str, Any]], key: str | None) -> dict[str, Any]:
    """Latency as recorded in a result: the largest batch size that fits with its conditions, all sizes in ``batches``, and the ``best``.

    Where not even the smallest could be measured, ``failed`` holds the reason and is the only field.
    """
    try:
        rows = fitting(records)
    except ForeignError as error:
        return {"failed": str(error)}
    measured = [row for row in rows if "failed" not in row]
    if not measured:
        return {"failed": rows[-1]["failed"]}
    short = [{name: row[name] for name in PER_BATCH if name in row} for row in rows]
    named = {} if key is None else {"key": key}
    return {**measured[-1], "best": best_throughput(rows), "batches": short, **named}


def measure_wishes(
    wishes: Sequence[Wish], settings: Mapping[str, Any], device: str, acceleration: Acceleration = PLAIN
) -> list[dict[str, Any]]:
    """The latency of every wish on a device, all measured in turns; ``settings`` are ``batches`` and ``seconds`` of a protocol."""
    found: dict[int, dict[str, Any]] = {}
    with ExitStack() as stack:
        jobs: list[Job] = []
        ready: set[int] = set()
        for index, wish in enumerate(wishes):
            try:
                with foreign():
                    if id(wish.model.method) not in ready:
                        stack.enter_context(lent(wish.model.method, device))
                        stack.enter_context(accelerated(wish.model.method, acceleration))
                    ready.add(id(wish.model.method))
                    jobs += _jobs(wish, settings["batches"])
            except ForeignError as error:
                found[index] = {"failed": str(error)}
        records = iter(measure_all(jobs, Bounds(settings["seconds"])))
        for index, wish in enumerate(wishes):
            if index not in found:
                found[index] = latency_record([next(records) for _ in settings["batches"]], wish.key)
    used = {} if acceleration == PLAIN else {"dtype": acceleration.dtype, "compile": acceleration.compile}
    return [{**found[index], **({} if "failed" in found[index] else used)} for index in range(len(wishes))]


# -- what was measured before ------------------------------------------------------------------------------------------


class _File(Closed, frozen=True):
    """``latency.json``."""

    schema: int
    latencies: dict[str, Latency]


class Book:
    """Latencies by name, those of ``folder/latency.json`` first; without a folder, those of this process.

    Raises ValueError in one line for a file that holds anything else.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = None if folder is None else folder / FILE
        self.known: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, dict[str, Any]] = {}
        self.tried: set[str] = set()
        if self.path is not None and self.path.is_file():
            content = read_json(self.path, "file of latencies", LARGEST)
            try:
                require(content, _File)
            except ValueError as error:
                raise ValueError(
                    f"{self.path}: {error}; remove the file, and `fmbench latency` measures again"
                ) from None
            self.known = content["latencies"]

    def fill(
        self,
        wishes: Sequence[Wish],
        settings: Mapping[str, Any],
        device: str,
        acceleration: Acceleration = PLAIN,
        again: bool = False,
        report: Callable[[int], None] = lambda number: None,
    ) -> list[dict[str, Any]]:
        """The latency of every wish: measured now in turns, once for every name, where it is not known (or ``again``), and written down."""
        lacking: dict[str | int, Wish] = {}
        for index, wish in enumerate(wishes):
            if wish.key is None:
                lacking[index] = wish
            elif again or not (wish.key in self.tried or self.known.get(wish.key, {}).get("stable")):
                # What was void before is worth another try, one in a process.
                lacking.setdefault(wish.key, wish)
        if lacking:
            report(len(lacking))
        made = dict(zip(lacking, measure_wishes(list(lacking.values()), settings, device, acceleration), strict=True))
        self.tried.update(key for key in made if isinstance(key, str))
        self._write({key: plain(one) for key, one in made.items() if isinstance(key, str) and "failed" not in one})
        self.failed.update({key: one for key, one in made.items() if isinstance(key, str) and "failed" in one})
        found: dict[str | int, dict[str, Any]] = {**self.failed, **self.known, **made}
        return [found[index if wish.key is None else wish.key] for index, wish in enumerate(wishes)]

    def _write(self, made: Mapping[str, dict[str, Any]]) -> None:
        self.known.update(made)
        if made and self.path is not None:
            write_json(self.path, {"schema": 1, "latencies": dict(sorted(self.known.items()))})
