"""Every number of a benchmark in one long, tidy table: one line per entry, sampler and metric, at full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from fmbench.records.result import Estimate, Result, Row
from fmbench.report.cells import REASON_LENGTH, clean
from fmbench.report.ranking import mflop_of

FIELDS: tuple[str, ...] = (
    "benchmark", "version", "protocol", "task", "task_version", "entry", "model", "method", "division", "status",
    "ranked", "parameters", "solver", "steps", "guidance", "nfe", "mflop", "metric", "value", "lo", "hi", "n", "reason",
)  # fmt: skip
LATENCY = ("p50", "low", "high", "p95", "cpu", "throughput")


def guard(text: str) -> str:
    """The text with a quote before a leading ``= + - @``, so that spreadsheets do not read it as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _identity(result: Result) -> dict[str, Any]:
    text = {
        "benchmark": result.benchmark["name"],
        "version": result.benchmark.get("version", ""),
        "protocol": result.benchmark["sha256"],
        "task": result.task["name"],
        "task_version": result.task.get("version", ""),
        "entry": result.entry,
        "model": result.model["name"],
        "method": result.model.get("method", ""),
        "division": result.model.get("division", ""),
        "status": result.status,
    }
    cleaned = {key: guard(clean(value, REASON_LENGTH)) for key, value in text.items()}
    return {**cleaned, "ranked": str(result.ranked).lower(), "parameters": result.model.get("parameters")}


def _number(metric: str, estimate: Estimate) -> dict[str, Any]:
    low, high = estimate.ci or (None, None)
    reason = guard(clean(estimate.reason or "", REASON_LENGTH))
    name = guard(clean(metric))
    return {"metric": name, "value": estimate.value, "lo": low, "hi": high, "n": estimate.n, "reason": reason}


def _row_numbers(row: Row) -> Iterator[dict[str, Any]]:
    if row.failed is not None:
        yield {"metric": "", "reason": guard(clean(f"failed: {row.failed}", REASON_LENGTH))}
    for metric, estimate in row.metrics.items():
        yield _number(metric, estimate)
    for key in LATENCY:
        if row.latency and row.latency.get(key) is not None:
            yield {"metric": f"latency_{key}" if key != "throughput" else key, "value": row.latency[key]}


def records(result: Result) -> Iterator[dict[str, Any]]:
    """One record per number of a result; nulls keep their reason.

    ``mflop`` are millions of floating-point operations per sample. Latencies are seconds per batch, throughput is samples per second.
    Flow metrics, which do not depend on the sampler, leave the sampler's columns empty.
    """
    identity = _identity(result)
    for row in result.rows:
        sampler = {
            "solver": guard(clean(row.solver)),
            "steps": row.steps,
            "guidance": row.guidance,
            "nfe": row.total_nfe if row.nfe else None,
            "mflop": mflop_of(result, row) if row.nfe else None,
        }
        for number in _row_numbers(row):
            yield {**identity, **sampler, **number}
    for metric, estimate in result.flow.items():
        yield {**identity, **_number(metric, estimate)}


def render(results: Sequence[Result]) -> str:
    """The CSV text of all results of one benchmark, header first, in the order of task, entry, sampler and metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for result in sorted(
        results, key=lambda r: (str(r.task["name"]), str(r.model["name"]), str(r.benchmark["sha256"]))
    ):
        writer.writerows([record.get(field, "") for field in FIELDS] for record in records(result))
    return out.getvalue()
