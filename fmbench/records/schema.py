"""The schema of a result: every table with its fields, their types and ranges, and the constraints between them (schema 1, unfolded).

It is checked when a result is written and when one is read (:mod:`fmbench.records.result`), nowhere else. A field that is not here is refused;
only ``details`` of an estimate may have additional fields.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from fmbench.records.conditions import (
    Amount,
    Closed,
    Cost,
    Count,
    Environment,
    Evaluations,
    Hash,
    Number,
    Positive,
    Seconds,
    Text,
)
from fmbench.records.latency import Latency
from fmbench.records.metric import METRICS, Metric
from fmbench.records.names import LONGEST, check_name_in, split_training
from fmbench.records.sampler import MOST_STEPS, UNSAMPLED
from fmbench.records.typed import law, one_of, shown, step

SCHEMA = 1
STATUSES = ("claimed", "rescored", "rerun", "replicated")
"""Levels of verification: a claimed value, recomputed from samples, regenerated from weights, retrained from the recipe."""
DIVISIONS = ("closed", "open", "anchor", "tool")
LARGEST_FILE = 16 << 20
"""Bytes of a result: a thousand samplers with thirty metrics need most of it."""
MOST_ROWS = 10_000
ROUND_OFF = 1e-9
"""Relative difference that a mean of the same numbers may have, summed in another order."""


class Extractor(Struct, frozen=True):
    """A feature extractor, with whatever else describes its preprocessing."""

    name: Text
    sha256: Hash


class Details(Struct, frozen=True):
    """The settings that determine an estimate; metrics add their own."""

    extractor: Extractor | None = None
    reference_sha256: Hash | None = None
    reference_n: Count | None = None
    per_seed: tuple[Number, ...] | UnsetType = UNSET


class EstimateTable(Closed, frozen=True):
    """A value with its interval and n, or null with the reason."""

    value: Number | None
    ci: tuple[Number, Number] | None = None
    n: Count = 0
    reason: Text | None = None
    details: Details = Details()
    key: str = ""
    run: str = ""

    def __post_init__(self) -> None:
        if self.value is None:
            law(self.reason is not None, "reason must say why there is no value")
            law(self.ci is None, lambda: f"ci must be null where there is no value, got {shown(self.ci)}")
            return
        law(self.reason is None, lambda: f"reason must be null beside a value, got {shown(self.reason)}")
        law(self.n >= 1, lambda: f"n must be at least 1 beside a value, got {self.n}")
        if self.ci is not None:
            low, high = self.ci
            law(low <= high, lambda: f"ci must be two numbers in order, got {shown(self.ci)}")
            slack = ROUND_OFF * max(abs(low), abs(high))
            inside = low - slack <= self.value <= high + slack
            law(inside, lambda: f"value must lie in its interval {shown(self.ci)}, got {self.value!r}")
        if seeds := self.per_seed:
            near = math.isclose(fmean(seeds), self.value, rel_tol=0, abs_tol=ROUND_OFF * max(map(abs, seeds)))
            law(near, lambda: f"details.per_seed must have the mean {self.value!r}, got {shown(seeds)}")

    @property
    def per_seed(self) -> tuple[float, ...] | None:
        """Its value for every evaluation seed, None when not recorded."""
        return None if isinstance(self.details.per_seed, UnsetType) else self.details.per_seed


class LeftOut(Closed, frozen=True):
    """Files of a folder or archive that hold no picture, and the names of the first of them."""

    files: Positive
    first: tuple[str, ...]


class Source(Closed, frozen=True):
    """Content of a file of samples or of a reference, and the part of it that was read."""

    n: Positive | None = None
    sha256: Hash | None = None
    dtype: str | None = None
    array: str | None = None
    arrays: tuple[str, ...] = ()
    left_out: LeftOut | None = None
    clipped_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    features: Positive | None = None


class Samples(Closed, frozen=True):
    """Number of samples and the hash of their float32 values; for samples from a file also the file's content and the reference."""

    n: Positive | None = None
    sha256: Hash | None = None
    dtype: str | None = None
    array: str | None = None
    arrays: tuple[str, ...] = ()
    left_out: LeftOut | None = None
    clipped_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    reference: Source | None = None

    def __post_init__(self) -> None:
        law((self.n is None) == (self.sha256 is None), "n and sha256 come together")


class RowTable(Closed, frozen=True):
    """The samples and metrics of one sampler."""

    solver: str
    steps: Annotated[int, Meta(ge=1, le=MOST_STEPS)] | None
    guidance: Annotated[float, Meta(ge=-1e6, le=1e6)]
    nfe: dict[str, Evaluations]
    metrics: dict[str, EstimateTable]
    latency: Latency | None = None
    samples: Samples = Samples()
    failed: Text | None = None
    id: str = ""
    run: str = ""
    mflop: Amount | None = None

    def __post_init__(self) -> None:
        check_name_in("solver", self.solver, "a solver")
        law(self.solver != UNSAMPLED or self.steps is None, f"steps must be null without a solver, got {self.steps}")
        _check_estimates("metrics", self.metrics, "samples")
        with_value = [name for name, estimate in self.metrics.items() if estimate.value is not None]
        law(not (self.failed and with_value), f"failed: a row that failed has no value, got one of {with_value[:1]}")


class Benchmark(Closed, frozen=True):
    """The protocol."""

    name: str
    version: Positive
    sha256: Hash

    def __post_init__(self) -> None:
        check_name_in("name", self.name, "a benchmark")


class Task(Closed, frozen=True):
    """The task."""

    name: str
    version: Positive
    kind: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_name_in("name", self.name, "a task")
        if not isinstance(self.kind, UnsetType):
            check_name_in("kind", self.kind, "a kind of task")


class Model(Closed, frozen=True):
    """The evaluated model."""

    name: str
    method: Text
    division: str
    parameters: Count | None = None
    conditional: bool | UnsetType = UNSET
    weights_sha256: Hash | None = None
    code_sha256: Hash | None = None
    license: str | None = None
    recipe: Hash | None = None
    hub: Text | UnsetType = UNSET
    remote_code: Text | UnsetType = UNSET

    def __post_init__(self) -> None:
        one_of("division", self.division, DIVISIONS)


class Run(Closed, frozen=True):
    """Where, when and how long numbers were made."""

    environment: Environment
    created: str = ""
    seconds: Seconds = 0.0
    peak_memory_bytes: Count | None = None
    phases: dict[str, Seconds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        law(is_time(self.created), f"created must be a time as in ISO 8601, or empty, got {shown(self.created)}")


class Retired(Closed, frozen=True):
    """A number that was replaced."""

    k: str
    value: Number | None = None
    ci: tuple[Number, Number] | None = None
    n: Count = 0


class ResultFile(Closed, frozen=True):
    """A whole result."""

    benchmark: Benchmark
    task: Task
    model: Model
    rows: Annotated[tuple[RowTable, ...], Meta(min_length=1, max_length=MOST_ROWS)]
    flow: dict[str, EstimateTable]
    ranked: bool
    seeds: Annotated[tuple[Count, ...], Meta(min_length=1)]
    samples_per_seed: Positive
    environment: Environment
    schema: int
    status: str = "rerun"
    peak_memory_bytes: Count | None = None
    seconds: Seconds = 0.0
    phases: dict[str, Seconds] = field(default_factory=dict)
    created: str = ""
    cost: Cost = Cost()
    unranked_because: tuple[Text, ...] = ()
    flow_id: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    retired: dict[str, dict[str, Retired]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task, _, entry = self.model.name.rpartition("/")
        if task != self.task.name:
            raise ValueError(
                f"model.name must be {self.task.name}/ENTRY, as its task says, got {shown(self.model.name)}"
            )
        check_name_in("model.name", split_training(entry)[0], "an entry")
        one_of("status", self.status, STATUSES)
        law(len(set(self.seeds)) == len(self.seeds), f"seeds must differ from each other, got {shown(self.seeds)}")
        law(not (self.ranked and self.unranked_because), "unranked_because must be empty where ranked is true")
        law(is_time(self.created), f"created must be a time as in ISO 8601, or empty, got {shown(self.created)}")
        _check_estimates("flow", self.flow, "flow")
        self._check_rows()
        self._check_runs()
        for index, row in enumerate(self.rows):
            self._check_seeds(f"rows[{index}].metrics", row.metrics)
        self._check_seeds("flow", self.flow)

    def _check_rows(self) -> None:
        """Raise ValueError for two rows of one sampler, or when rows with samples differ in their metrics."""
        seen: dict[tuple[str, int | None, float], int] = {}
        names = next((set(row.metrics) for row in self.rows if row.failed is None), None)
        for index, row in enumerate(self.rows):
            first = seen.setdefault((row.solver, row.steps, row.guidance), index)
            law(first == index, f"rows[{index}] has the sampler of rows[{first}]")
            same = row.failed is not None or set(row.metrics) == names
            law(same, f"rows[{index}].metrics must have the metrics of the other rows")

    def _check_runs(self) -> None:
        """Raise ValueError when a row or estimate names a run that is not listed."""
        for index, row in enumerate(self.rows):
            law(row.run in ("", *self.runs), f"rows[{index}].run names no run, got {shown(row.run)}")
        for table in (*(row.metrics for row in self.rows), self.flow):
            for name, estimate in table.items():
                if estimate.run and estimate.run not in self.runs:
                    raise ValueError(f"runs has no {shown(estimate.run)}, which {shown(name)} names")

    def _check_seeds(self, field: str, estimates: Mapping[str, EstimateTable]) -> None:
        for name, estimate in estimates.items():
            found, wanted = estimate.per_seed, len(self.seeds)
            if found is not None and len(found) != wanted:
                where = f"{field}{step(name)}.details.per_seed"
                raise ValueError(f"{where} must have one value for each of {wanted} seeds, got {len(found)}")


def is_time(text: str) -> bool:
    """Whether text is a time as in ISO 8601, or empty."""
    if text == "":
        return True
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def known_metric(name: str) -> Metric | None:
    """The metric of that name; None when this version has none, or its plug-in cannot be imported."""
    try:
        return METRICS.get(name)
    except ValueError:
        return None


def check_value(name: str, estimate: EstimateTable) -> None:
    """Raise ValueError for a value that its metric cannot have, for any seed."""
    metric = known_metric(name)
    if metric is None or estimate.value is None:
        return
    law(metric.contains(estimate.value), lambda: f"value must be {_bounds(metric)}, got {estimate.value!r}")
    inside = all(map(metric.contains, estimate.per_seed or ()))
    law(inside, lambda: f"details.per_seed must be {_bounds(metric)}, every one of them")


def _bounds(metric: Metric) -> str:
    sides = zip(("least", "most"), metric.range, strict=True)
    return " and ".join(f"at {side} {bound:g}" for side, bound in sides if math.isfinite(bound))


def _check_estimates(field: str, estimates: Mapping[str, EstimateTable], scope: str) -> None:
    for name, estimate in estimates.items():
        if not (1 <= len(name) <= LONGEST and name.isprintable()):
            raise ValueError(f"{field + step(name)}: a metric has a name of 1 to {LONGEST} printable characters")
        metric = known_metric(name)
        if metric is not None and metric.scope != scope:
            raise ValueError(f"{field + step(name)} is no metric of {scope}")
        try:
            check_value(name, estimate)
        except ValueError as error:
            raise ValueError(f"{field + step(name)}.{error}") from None
