"""Results as a tidy table: one row per number, for pandas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fmbench.records.names import split_training

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "benchmark", "version", "task", "entry", "training", "method", "division", "status", "ranked", "solver", "steps", "guidance", "nfe",
    "mflop", "metric", "value", "low", "high", "n", "seeds", "reason",
)  # fmt: skip
WHOLE = ("version", "training", "steps", "n", "seeds")
"""Columns of whole numbers, which may be missing."""
LATENCY = ("p50", "p95", "throughput", "cpu")


def _told(result: Any) -> dict[str, Any]:
    entry, training = split_training(result.entry)
    return {
        "benchmark": result.benchmark["name"],
        "version": result.benchmark.get("version"),
        "task": result.task["name"],
        "entry": entry,
        "training": training or 0,
        "method": result.model.get("method"),
        "division": result.model.get("division"),
        "status": result.status,
        "ranked": result.ranked,
        "seeds": len(result.seeds),
    }


def _number(metric: str, estimate: Any) -> dict[str, Any]:
    low, high = estimate.ci or (None, None)
    return {
        "metric": metric, "value": estimate.value, "low": low, "high": high, "n": estimate.n or None, "reason": estimate.reason or "",
    }  # fmt: skip


def _sampler(row: Any) -> dict[str, Any]:
    drawn = row.solver != "none"
    return {
        "solver": row.solver if drawn else "",
        "steps": row.steps,
        "guidance": row.guidance if drawn else None,
        "nfe": row.total_nfe if row.nfe else None,
        "mflop": row.mflop,
    }


def _rows(result: Any) -> Iterator[Mapping[str, Any]]:
    told = _told(result)
    for row in result.rows:
        sampler = _sampler(row)
        if row.failed is not None:
            yield {**told, **sampler, "metric": "", "reason": f"failed: {row.failed}"}
        for metric, estimate in row.metrics.items():
            yield {**told, **sampler, **_number(metric, estimate)}
        for key in LATENCY:
            if row.latency and isinstance(row.latency.get(key), int | float):
                name = key if key == "throughput" else f"latency_{key}"
                yield {**told, **sampler, "metric": name, "value": row.latency[key], "reason": ""}
    for metric, estimate in result.flow.items():
        yield {**told, "solver": "", **_number(metric, estimate)}


def frame(results: Sequence[Any]) -> pd.DataFrame:
    """The numbers of :class:`~fmbench.records.result.Result` objects, one row each, with the columns :data:`COLUMNS`.

    ``training`` counts from 0; ``low`` and ``high`` are the 95 % interval; a number that is missing has ``value`` NaN and a ``reason``. Metrics
    of the flow have no sampler. Latencies are seconds per batch, ``latency_cpu`` CPU seconds per sample, ``throughput`` samples per second.
    """
    import pandas as pd

    table = pd.DataFrame([one for result in results for one in _rows(result)], columns=list(COLUMNS))
    for name in WHOLE:
        table[name] = table[name].astype("Int64")
    for name in ("guidance", "nfe", "mflop", "value", "low", "high"):
        table[name] = table[name].astype("float64")
    return table
