"""Tables of a result for the environment, conditions and cost of its measurements, and the types that all tables use."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from fmbench.records.typed import HASH

Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
"""Differences of two of them are finite."""
Amount = Annotated[float, Meta(ge=0, le=1e300)]
Evaluations = Annotated[float, Meta(ge=0, le=1e12)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Hash = Annotated[str, HASH]
Text = Annotated[str, Meta(min_length=1)]


class Closed(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of exactly these fields."""


class Acceleration(Closed, frozen=True):
    """Acceleration of the network during sampling."""

    dtype: str
    channels_last: bool
    compile: str


class Conditions(Closed, frozen=True):
    """Versions, device, threads, vector instructions of the CPU, samples per network call, which affect the last bits of samples."""

    fmbench: str | None = None
    git_commit: str | None = None
    python: str | None = None
    torch: str | None = None
    numpy: str | None = None
    scipy: str | None = None
    pot: str | None = None
    platform: str | None = None
    device: str | None = None
    threads: Count | None = None
    capability: str | None = None
    batch_size: Positive | None = None
    acceleration: Acceleration | None = None


class Environment(Conditions, frozen=True):
    """Environment of the rows, and that of the flow when it was measured later."""

    flow: Conditions | None = None


class Memory(Closed, frozen=True):
    """Peak memory of one batch, in bytes."""

    peak: Count | None = None
    growth: Count | None = None
    reserved: Count | None = None
    exact: bool | None = None
    source: str | None = None


class Energy(Closed, frozen=True):
    """Energy of one sample, or why it is not known."""

    joules_per_sample: Amount | None = None
    watts: Amount | None = None
    seconds: Seconds | None = None
    repeats: Count | None = None
    samples: Count | None = None
    reason: str | None = None


class Cost(Closed, frozen=True):
    """Cost of running a model, or the reason why it could not be measured."""

    parameters: Count | None = None
    batch: Positive | None = None
    sampler: str | None = None
    flops_per_evaluation: Amount | None = None
    flops_per_sample: Amount | None = None
    flops_uncounted: tuple[str, ...] | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    reason: str | None = None
