"""The columns of a table: title, meaning, and the cell of an entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from fmbench.records.metric import METRICS, Metric
from fmbench.records.result import Estimate, Result, Row
from fmbench.records.sampler import Sampler
from fmbench.report.cells import MISSING, REASON_LENGTH, Cell, clean, count_cell, estimate_cell, plain, text_cell
from fmbench.report.judging import Judged, metric_info
from fmbench.report.ranking import CONDITIONAL, mflop_of
from fmbench.report.standings import NETWORK, Standing, standing

CONDITIONS = (
    "batch",
    "repeats",
    "p95",
    "p99",
    "iqr",
    "others",
    "device",
    "threads",
    "dtype",
    "compile",
    "tf32",
    "clock",
)
"""Fields shown in the note of a latency."""
CLAIM_OF_METHODS = "the rank covers training and evaluation noise"
UNSETTLED = "not stable when it was timed"
"""Reason why times of earlier versions are void."""
NOT_RUN = Cell(MISSING, note="not run with this sampler")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: heading.
        note: its meaning.
        cell: makes the cell of a judged result.
        metric: the metric by sampler it belongs to; "" for columns that are always shown.
        better: "lower", "higher" or "neither"; only the first two get their best cells marked.
        estimate: the estimate behind the cell, for marking the best.
        numeric: whether it is set flush right.
    """

    title: str
    note: str
    cell: Callable[[Judged], Cell]
    metric: str = ""
    better: str = "neither"
    estimate: Callable[[Judged], Estimate | None] | None = None
    numeric: bool = True

    def standing(self, judged: Judged) -> Standing | None:
        """The value that the cell is compared by, None when there is none."""
        estimate = self.estimate(judged) if self.estimate else None
        return None if estimate is None or estimate.value is None else standing(estimate)


def describe(info: Metric) -> str:
    """A metric in one line: what it is, its unit, which side is better."""
    unit = f" Unit: {info.unit}." if info.unit else ""
    side = f" {info.better.capitalize()} is better." if info.better != "neither" else ""
    return f"{info.summary}{unit}{side}"


def _rank(judged: Judged) -> Cell:
    if judged.rank is None or judged.row is None:
        text = "not ranked" if judged.group == "unranked" else MISSING
        return Cell(text, None, clean(judged.reason, REASON_LENGTH))
    lowest, highest = judged.rank
    text = str(lowest) if lowest == highest else f"{lowest}-{highest}"
    # Ranks of networks and ranks of methods in one column would be taken for each other.
    told = [] if judged.group == "closed" else [judged.group]
    if judged.claims > 1 and judged.standing is not None:
        told.append(judged.standing.claim.partition(",")[0])
    text += f" ({', '.join(told)})" if told else ""
    note = clean(f"{judged.group} division, judged by its row {judged.row.solver} {judged.row.steps}")
    return Cell(text, judged.place, note)


def _claim(judged: Judged) -> Cell:
    if judged.standing is None:
        return Cell(MISSING, note="not ranked")
    claim = judged.standing.claim
    note = "these weights, not the method; the rank covers evaluation noise" if claim == NETWORK else CLAIM_OF_METHODS
    return text_cell(claim, note)


def _division(judged: Judged) -> Cell:
    if judged.group == "anchor":
        return Cell(MISSING, note="an anchor has no division")
    labels = CONDITIONAL if judged.result.model.get("conditional") else ""
    return text_cell(judged.result.model.get("division", "") + labels)


def _nfe(row: Row | None) -> Cell:
    if row is None:
        return NOT_RUN
    if not row.nfe:
        reasons = [row.failed and f"failed: {row.failed}", *(e.reason for e in row.metrics.values())]
        return Cell(MISSING, note=clean(next(filter(None, reasons), "nothing evaluated"), REASON_LENGTH))
    parts = ", ".join(f"{name} {plain(count, 6)} per sample" for name, count in row.nfe.items())
    total = row.total_nfe
    text = f"{total:.0f}" if total == round(total) else f"{total:.1f}"
    return Cell(text, total, clean(parts))


def _work(judged: Judged) -> Cell:
    row = judged.row
    mflop = None if row is None or not row.nfe else mflop_of(judged.result, row)
    if row is None or mflop is None:
        return Cell(MISSING, note="not counted")
    how = "evaluations times the operations of one" if row.mflop is None else "of all networks, counted by torch"
    return Cell(plain(mflop, 3), mflop, f"{how}, 2 per multiply-add")


def _void(latency: Mapping[str, Any] | None) -> str | None:
    """The reason why times must not be compared, None when they may be."""
    if not latency or latency.get("p50") is None:
        return str((latency or {}).get("failed") or "not timed")
    return None if latency.get("stable") else str(latency.get("void") or UNSETTLED)


def _latency(judged: Judged) -> Cell:
    latency = judged.row.latency if judged.row else None
    if latency is None or (void := _void(latency)) is not None:
        return Cell(MISSING, note=clean("not timed" if latency is None else void or "", REASON_LENGTH))
    shown = {key: value for key, value in latency.items() if key in CONDITIONS and value is not None}
    note = clean("milliseconds per batch; " + ", ".join(f"{k} {v}" for k, v in shown.items()), REASON_LENGTH)
    low, high = latency.get("low"), latency.get("high")
    if low is None or high is None:
        return Cell(plain(1e3 * latency["p50"], 3), latency["p50"], note)
    estimate = Estimate(1e3 * latency["p50"], (1e3 * low, 1e3 * high), latency.get("repeats") or 1)
    return Cell(estimate_cell(estimate).text, latency["p50"], note)


def _processor(judged: Judged) -> Cell:
    latency = judged.row.latency if judged.row else None
    if not latency or latency.get("cpu") is None:
        return Cell(MISSING, note="not timed")
    note = f"CPU seconds of the process per sample at batch {latency['batch']}: other processes do not count"
    return Cell(plain(1e3 * latency["cpu"], 3), latency["cpu"], clean(note))


def _throughput(judged: Judged) -> Cell:
    latency = (judged.row.latency if judged.row else None) or {}
    best = latency.get("best")
    if not isinstance(best, Mapping) or not isinstance(best.get("throughput"), int | float):
        return Cell(MISSING, note="not timed")
    if (void := _void(latency)) is not None:
        return Cell(MISSING, note=clean(void, REASON_LENGTH))
    note = f"samples per second at batch {best.get('batch')}, the fastest of those timed"
    return Cell(f"{best['throughput']:,.0f}", best["throughput"], clean(note))


def _operations(judged: Judged) -> Cell:
    cost = judged.result.cost
    flops = cost.get("flops_per_evaluation")
    if not isinstance(flops, int | float):
        return Cell(MISSING, note=clean(str(cost.get("reason", "not counted")), REASON_LENGTH))
    unseen = cost.get("flops_uncounted")
    note = (
        f"a lower bound: not counted {', '.join(map(str, unseen))}"
        if unseen
        else "counted by torch, 2 per multiply-add"
    )
    return Cell(("at least " if unseen else "") + plain(flops / 1e6, 3), flops, clean(note, REASON_LENGTH))


def _metric_column(metric: str, info: Metric, note: str, sampler: Sampler, label: str) -> Column:
    def cell(judged: Judged) -> Cell:
        row = judged.rows.get(sampler)
        if row is None:
            return NOT_RUN
        if row.failed is not None:
            return Cell("failed", None, clean(row.failed, REASON_LENGTH))
        return estimate_cell(row.metrics.get(metric), info.unit)

    def estimate(judged: Judged) -> Estimate | None:
        row = judged.rows.get(sampler)
        return None if row is None or row.failed is not None else row.metrics.get(metric)

    return Column(f"{info.label} @{label}", note, cell, metric, info.better, estimate)


def _flow_column(metric: str) -> Column:
    info = metric_info(metric)

    return Column(info.label, describe(info), lambda judged: estimate_cell(judged.result.flow.get(metric), info.unit))


def in_order(names: Set[str]) -> list[str]:
    """Names of metrics that have a column: those of the metric table in its order, then metrics unknown to it."""
    return [name for name in METRICS if name in names and metric_info(name).column] + sorted(names - set(METRICS))


def _flow_metrics(results: Sequence[Result]) -> list[str]:
    """Names of flow metrics with at least one value."""
    found = {name for result in results for name, estimate in result.flow.items() if estimate.value is not None}
    return in_order(found)


def _nfe_column(sampler: Sampler, label: str) -> Column:
    def cell(judged: Judged) -> Cell:
        row = judged.rows.get(sampler)
        return _nfe(row if row is None or row.solver == sampler.solver else None)

    return Column(f"NFE @{label}", "Measured network evaluations per sample.", cell)


def columns_of(
    results: Sequence[Result], labels: Mapping[Sampler, str], metrics: Mapping[str, Metric], budget: int
) -> list[Column]:
    """All columns of a table, those of the primary metric before those of the other metrics by sampler.

    ``labels`` has the samplers in the order of the columns, with what they are called.
    """
    called = {sampler: clean(label) for sampler, label in labels.items()}
    judged_nfe = "Measured network evaluations per sample, guidance included, in the row that is ranked."
    judged_mflop = "Millions of floating-point operations per sample, of all networks, in the row that is ranked."
    division = (
        "closed: the task's fixed network, data and training budget; open: anything; "
        "conditional: told the class of every sample."
    )

    def model(key: str) -> Callable[[Judged], Cell]:
        return lambda j: text_cell(j.result.model.get(key, ""))

    return [
        Column(
            "rank",
            "Lowest and highest rank that fits the differences beyond doubt; all of a table hold together with 95 %.",
            _rank,
        ),
        Column("entry", "The entry.", lambda j: text_cell(j.label, clean(j.result.model["name"], 200)), numeric=False),
        Column("method", "How it was trained.", model("method"), numeric=False),
        Column("params", "Number of parameters.", lambda j: count_cell(j.result.model.get("parameters"))),
        *(
            _metric_column(name, info, note, sampler, label)
            for name, info in metrics.items()
            for note in [describe(info)]
            for sampler, label in called.items()
        ),
        Column(f"NFE @{budget}", judged_nfe, lambda j: _nfe(j.row)),
        Column(f"MFLOP @{budget}", judged_mflop, _work),
        *(_nfe_column(sampler, label) for sampler, label in called.items() if sampler.steps is None),
        *(_flow_column(name) for name in _flow_metrics(results)),
        Column(
            "p50 ms",
            "Median latency of a batch in milliseconds, in the row that is ranked; empty where it was not stable.",
            _latency,
        ),
        Column("CPU ms", "CPU milliseconds per sample at the same batch size, in the row that is ranked.", _processor),
        Column("samples/s", "Throughput at the fastest batch size timed, in the row that is ranked.", _throughput),
        Column("MFLOP", "Millions of floating-point operations of one network evaluation for one sample.", _operations),
        Column("division", division, _division, numeric=False),
        Column(
            "claim",
            "What a rank says something about: this network, or its method, as the mean of several trainings.",
            _claim,
            numeric=False,
        ),
        Column(
            "status",
            "claimed, rescored (from samples), rerun (from weights) or replicated (retrained).",
            lambda j: text_cell(j.result.status),
            numeric=False,
        ),
    ]
