"""The schema of a result: one JSON file per (benchmark, task, entry), machine-written. Reading it needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmbench.storage.files import write_json

SCHEMA = 1
STATUSES = ("claimed", "rescored", "rerun", "replicated")
"""The ladder of trust: somebody's number, recomputed from samples, regenerated from weights, retrained from the recipe."""


@dataclass(frozen=True)
class Estimate:
    """One metric's value with its uncertainty, or null with the reason.

    Attributes:
        value: the number, None when it could not be measured.
        ci: 95 % interval, None when there is none.
        n: number of samples (or trajectories) behind it.
        reason: why ``value`` is None.
        details: extractor and reference hashes, solver of a reference solve, and whatever else pins the number.
    """

    value: float | None
    ci: tuple[float, float] | None = None
    n: int = 0
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def missing(cls, reason: str) -> Estimate:
        """A metric that does not apply or failed, with the reason."""
        return cls(None, reason=reason)


@dataclass(frozen=True)
class Row:
    """What one sampler of the protocol gave.

    Attributes:
        solver, steps, guidance: the sampler; ``steps`` is None for adaptive solvers.
        nfe: measured evaluations per sample, ``{"network": ..., "guidance": ...}``.
        metrics: estimates by metric name.
        latency: seconds ``p50``, ``p95``, ``p99`` per batch (None with too few repeats), ``throughput`` in samples/s, conditions; the same for
            every batch size in ``batches`` and the ``best`` of them; None when not timed.
        samples: ``n`` in all and the ``sha256`` of the float32 samples of all seeds in order.
        failed: one line when the samples were unusable (NaN, an exception), else None.
    """

    solver: str
    steps: int | None
    guidance: float
    nfe: Mapping[str, float]
    metrics: Mapping[str, Estimate]
    latency: Mapping[str, Any] | None = None
    samples: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None

    @property
    def total_nfe(self) -> float:
        """All network evaluations per sample."""
        return sum(self.nfe.values())


@dataclass(frozen=True)
class Result:
    """Everything one entry's run on one task of a benchmark produced.

    Attributes:
        benchmark: ``name``, ``version``, ``sha256`` of the protocol.
        task: ``name``, ``version``, ``kind``.
        model: ``name``, ``method``, ``division``, ``weights_sha256``, ``code_sha256``, ``parameters``, ``license``, ``conditional``.
        rows: one per sampler, in the protocol's order.
        flow: estimates on the shared reference solve (straightness, path energy, ...), independent of the sampler.
        ranked: False for ``--limit`` runs and models that are not to be ranked.
        seeds: evaluation seeds.
        samples_per_seed: samples per evaluation seed (the data anchor of a finite set has all its points once instead).
        environment: versions, device, threads, git commit.
        cost: parameters, FLOPs of one network evaluation, peak memory and energy of a batch; empty for real data.
        status: a rung of :data:`STATUSES`.
    """

    benchmark: Mapping[str, Any]
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    rows: tuple[Row, ...]
    flow: Mapping[str, Estimate]
    ranked: bool
    seeds: tuple[int, ...]
    samples_per_seed: int
    environment: Mapping[str, Any]
    status: str = "rerun"
    peak_memory_bytes: int | None = None
    seconds: float = 0.0
    created: str = ""
    schema: int = SCHEMA
    cost: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> str:
        """The last part of the model's name, which is the file's name."""
        return str(self.model["name"]).rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    def save(self, folder: Path) -> Path:
        """Write ``folder/<benchmark>/<task>/<entry>.json`` atomically and return the path."""
        path = folder / self.benchmark["name"] / self.task["name"] / f"{self.entry}.json"
        write_json(path, self.to_json())
        return path


def _estimates(table: Mapping[str, Any]) -> dict[str, Estimate]:
    return {k: Estimate(**{**v, "ci": tuple(v["ci"]) if v["ci"] else None}) for k, v in table.items()}


def read(path: Path) -> Result:
    """Read one result. Raises ValueError naming the file when it is not one of this schema."""
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, this version reads {SCHEMA}")
        rows = tuple(Row(**{**row, "metrics": _estimates(row["metrics"])}) for row in content.pop("rows"))
        flow = _estimates(content.pop("flow"))
        return Result(**{**content, "rows": rows, "flow": flow, "seeds": tuple(content["seeds"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a result file: {error}") from None


def read_all(folder: Path) -> list[Result]:
    """All results below a folder, in the order of their paths."""
    return [read(path) for path in sorted(folder.rglob("*.json"))]
