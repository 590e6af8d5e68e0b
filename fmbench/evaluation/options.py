"""The options of a run, defined once: the flags of ``fmbench run`` and the keywords of ``fmbench.evaluate`` are its fields. No torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fmbench.evaluation.acceleration import COMPILE, DTYPES, Acceleration
from fmbench.evaluation.device import resolve_device
from fmbench.execution.executor import usable_threads
from fmbench.records.protocol import Protocol
from fmbench.registry import TASKS

AUTO = "auto"
LEAST = {"samples": 64, "probes": 16}
"""Trajectories and probes that a limited run looks at where it has so many samples: fewer tell nothing."""
MOST_WORKERS = 8
"""Processes that a run starts unless it is told how many: each holds its own libraries, data and features in memory."""


def option(default: Any, text: str, **flag: Any) -> Any:
    """A field with its default, its help text, and ``choices``, ``least`` or ``kind`` where its flag has such."""
    return dataclasses.field(default=default, metadata={"help": text, **flag})


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes a sample, except ``limit`` and ``seed_set``, and within rounding the acceleration.

    The help text of a field says what it means and whether a result made with it is ranked. Raises ValueError for values out of range.
    """

    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    batch_size: int = option(
        1024, "samples per network call on a fixed grid; adaptive solvers always get 256", least=1, kind=int
    )
    limit: int | None = option(
        None,
        "samples per seed, at most those of the benchmark; reference solve and probes shrink with them; the result is marked and never ranked",
        least=1,
        kind=int,
    )
    seed_set: int = option(0, "k shifts the evaluation seeds by 1000 k; not ranked unless 0", least=0, kind=int)
    dtype: str = option("float32", "of the network while it samples; not ranked unless float32", choices=DTYPES)
    compile: str = option(
        "none",
        "torch.compile the network, reduce-overhead with CUDA graphs; not ranked unless none",
        choices=COMPILE,
    )
    channels_last: bool = option(False, "memory format of images, nothing for vectors; not ranked")
    extended: bool = option(
        False, "measure the benchmark's extended metrics too; those that a result has already go on"
    )
    overwrite: bool = option(False, "evaluate again what is already there")
    workers: int | str = option(
        AUTO,
        "processes that share the work; auto: one for every thread of torch, up to 8, for several models on a CPU, else 1",
        least=1,
        kind=int,
        words=(AUTO,),
    )
    trust_remote_code: bool = option(
        False, "run the code of models that are hf:owner/name@COMMIT; recorded in the result"
    )
    trainings: int | None = option(
        None,
        "trainings of each entry that has several, counted from its first (default: as many as the benchmark asks for); "
        "below three a row is about the network",
        least=1,
        kind=int,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, name, facts = getattr(self, field.name), field.name.replace("_", " "), field.metadata
            if (
                "kind" in facts
                and not (value is None and field.default is None)
                and value not in facts.get("words", ())
            ):
                if not isinstance(value, int) or isinstance(value, bool):
                    words = "".join(f" or {word}" for word in facts.get("words", ()))
                    raise ValueError(f"{name} must be a whole number{words}, got {value!r}")
                if value < facts["least"]:
                    raise ValueError(f"{name} must be at least {facts['least']}, got {value}")
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        if not isinstance(self.device, str):
            raise ValueError(f"device must be a name such as cpu or cuda:0, got {self.device!r}")
        _ = self.acceleration

    @property
    def acceleration(self) -> Acceleration:
        """Precision, memory format and compilation of the network while it samples. Raises ValueError for an unknown one."""
        return Acceleration(self.dtype, self.channels_last, self.compile)

    def plain(self) -> Options:
        """The same for real samples, which pass no network."""
        return dataclasses.replace(self, dtype="float32", compile="none", channels_last=False)

    def check(self, spec: Protocol) -> None:
        """Raise ValueError for options that would have no effect on any part of a protocol or on the device, before any work."""
        if self.limit is not None and self.limit > spec.samples:
            raise ValueError(
                f"limit {self.limit} is more than the {spec.samples} samples per seed of {spec.name}; leave it out"
            )
        if self.channels_last and not any("image" in TASKS.resolve(task)().space.provides for task in spec.tasks):
            raise ValueError(f"channels last is a memory format of images, and {spec.name} has none; leave it out")
        if self.acceleration.graphs:
            self.acceleration.require(resolve_device(self.device))

    def processes(self, device: str, models: int) -> int:
        """How many processes share the work on so many models on a device, a name that :func:`resolve_device` gave."""
        if isinstance(self.workers, int):
            return self.workers
        return min(models, usable_threads(), MOST_WORKERS) if device == "cpu" and models > 1 else 1

    def samples(self, spec: Protocol) -> int:
        """Samples per seed."""
        return spec.samples if self.limit is None else min(self.limit, spec.samples)

    def seeds(self, spec: Protocol) -> tuple[int, ...]:
        """Evaluation seeds."""
        return tuple(seed + 1000 * self.seed_set for seed in spec.seeds)

    def flow(self, spec: Protocol) -> dict[str, int]:
        """Settings of the reference solve and the probe, which shrink with the samples of a limited run down to :data:`LEAST`."""
        flow, n = dict(spec.flow), self.samples(spec)
        for key, least in LEAST.items() if self.limit is not None else ():
            flow[key] = min(flow[key], n, max(least, -(-flow[key] * n // spec.samples)))
        return flow

    @property
    def unranked_because(self) -> tuple[str, ...]:
        """Why a result made with these options is not ranked, a reason for each of them; empty when it may be."""
        plain, used = Acceleration(), self.acceleration
        reasons = (
            [f"{self.limit} samples per seed instead of the protocol's (--limit)"] if self.limit is not None else []
        )
        if self.seed_set:
            reasons.append(f"evaluation seeds shifted by {1000 * self.seed_set} (--seed-set {self.seed_set})")
        if used.dtype != plain.dtype:
            reasons.append(f"the network computed in {used.dtype} (--dtype)")
        if used.compile != plain.compile:
            reasons.append(f"the network was compiled, mode {used.compile} (--compile)")
        if used.channels_last:
            reasons.append("images went through the network channels last (--channels-last)")
        return tuple(reasons)

    @property
    def ranked(self) -> bool:
        """Whether the result may be ranked."""
        return not self.unranked_because
