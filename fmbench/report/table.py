"""Results -> tables: one per benchmark, protocol and task, one row per entry, ranked where the intervals allow it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fmbench.records.metric import Metric
from fmbench.records.result import Result
from fmbench.records.sampler import UNSAMPLED, Sampler
from fmbench.report.cells import MISSING, REASON_LENGTH, Cell, clean
from fmbench.report.columns import Column, columns_of, in_order
from fmbench.report.judging import Judged, families, judge, metric_info
from fmbench.report.ranking import PRIMARY, STEPS, primary_metric
from fmbench.report.samplers import labels_of, samplers_of
from fmbench.report.standings import compare
from fmbench.report.trainings import joined_trainings


class TableKey(NamedTuple):
    """The key that results of one table share; other protocols or task versions give other values."""

    benchmark: str
    version: str
    sha256: str
    task: str
    task_version: str


class Note(NamedTuple):
    """A note on missing values: the entry, the columns or sampler, the reason."""

    entry: str
    where: str
    reason: str


class Point(NamedTuple):
    """One sampler of one entry in the plot of a metric; ``line`` names the points to be joined."""

    sampler: str
    line: str
    nfe: float
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Ranking:
    """The ranking of the entries of one division and one claim, ``network`` or ``method``.

    ``facts`` are those of :class:`~fmbench.report.standings.Ranks`; its pairs stand in the order of the rows.
    """

    division: str
    claim: str
    facts: Mapping[str, Any]

    def line(self) -> str:
        """The ranking in words: how many pairs are separated, and what was compared."""
        facts = self.facts
        how = "stated intervals, unpaired"
        if facts["paired"]:
            how = f"{facts['units']}, {'logarithms' if facts['scale'] == 'log' else 'differences'}"
        if 0 < facts["paired"] < facts["entries"]:
            how += f"; {facts['entries'] - facts['paired']} without raw values by stated intervals, unpaired"
        return f"{self.division}, {self.claim}s: {facts['separated']} of {facts['pairs']} pairs separated ({how})"


@dataclass(frozen=True)
class TableRow:
    """One entry: its group (see :data:`fmbench.report.judging.GROUPS`), lowest and highest rank if any, cells in the order of the columns."""

    entry: str
    group: str
    rank: tuple[int, int] | None
    cells: tuple[Cell, ...]
    curves: Mapping[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Table:
    """All entries of one task under one protocol.

    Attributes:
        key: what the results share.
        primary: the metric that ranks.
        budget: largest number of fixed steps an entry may be judged by.
        metrics: the metrics by sampler that the table has columns for, the primary one first.
        columns, rows: the body; columns whose ``metric`` is another than the primary are shown on demand.
        failures: samplers that failed and entries that are not ranked, with the reason.
        samples: least and largest n behind the primary metric.
        devices: the devices of the runs.
        seeds: numbers of evaluation seeds.
        rankings: how each division was ranked.
    """

    key: TableKey
    primary: str
    budget: int
    metrics: Mapping[str, Metric]
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    failures: tuple[Note, ...]
    samples: tuple[int, int]
    devices: tuple[str, ...]
    seeds: tuple[int, ...]
    rankings: tuple[Ranking, ...] = ()

    def view(self, metric: str | None = None) -> list[int]:
        """Indices of the columns to show for a metric by sampler (the primary one unless given)."""
        wanted = ("", metric or self.primary)
        return [i for i, column in enumerate(self.columns) if column.metric in wanted]

    def gaps(self, metric: str | None = None) -> list[Note]:
        """Notes on cells of that view without a value, the columns of one entry with the same reason together."""
        notes = []
        for row in self.rows:
            reasons: dict[str, list[str]] = {}
            for i in self.view(metric):
                column, cell = self.columns[i], row.cells[i]
                if cell.text == MISSING and column.numeric and column.title != "rank":
                    reasons.setdefault(cell.note, []).append(column.title)
            notes += [Note(row.entry, ", ".join(titles), reason) for reason, titles in reasons.items()]
        return notes


def sample_metrics(results: Sequence[Result], primary: str) -> dict[str, Metric]:
    """Metrics by sampler that have at least one number, the primary one first, then in the order of the listing."""
    rows = [row for result in results for row in result.rows]
    names = {name for row in rows for name, estimate in row.metrics.items() if estimate.value is not None} - {primary}
    return {name: metric_info(name) for name in (primary, *in_order(names))}


def curves_of(result: Result, labels: Mapping[Sampler, str], metrics: Iterable[str]) -> dict[str, tuple[Point, ...]]:
    """Points of the quality-versus-NFE plot by metric; real samples, which cost no evaluation, have one point at 0."""
    named = [
        (
            row,
            clean(row.solver if row.solver == UNSAMPLED else labels[row.sampler]),
            clean(row.solver if row.guidance == 1 else f"{row.solver} g{row.guidance:g}"),
        )
        for row in result.rows
    ]
    curves: dict[str, tuple[Point, ...]] = {}
    for metric in metrics:
        points = []
        for row, label, line in named:
            estimate = row.metrics.get(metric)
            if row.failed is not None or estimate is None or estimate.value is None:
                continue
            low, high = estimate.ci or (estimate.value, estimate.value)
            points.append(Point(label, line, row.total_nfe, estimate.value, low, high, estimate.n))
        if points:
            curves[metric] = tuple(sorted(points, key=lambda p: (p.line, p.nfe)))
    return curves


def _mark_best(columns: Sequence[Column], judged: Sequence[Judged], cells: list[list[Cell]]) -> None:
    for index, column in enumerate(columns):
        if column.better not in ("lower", "higher"):
            continue
        for family in families(judged, column.standing):
            if len(family.members) < 2:
                continue
            for place, lowest in zip(
                family.members, compare(family.standings, metric_info(column.metric)).lowest, strict=True
            ):
                if lowest == 1:
                    cells[place][index] = replace(cells[place][index], best=True)


def _failures(judged: Sequence[Judged], labels: Mapping[Sampler, str]) -> list[Note]:
    notes = []
    for j in judged:
        for sampler, row in j.rows.items():
            if row.failed is not None and row.solver != UNSAMPLED:
                where = f"@{clean(labels[sampler])}"
                notes.append(Note(j.label, where, f"failed: {clean(row.failed, REASON_LENGTH)}"))
        if j.group == "unranked" and (j.row is None or j.row.failed is None):
            notes.append(Note(j.label, "rank", clean(j.reason, REASON_LENGTH)))
    return notes


def _table(key: TableKey, results: Sequence[Result], budget: int, primary: str) -> Table:
    results = joined_trainings(results)
    labels = labels_of(samplers_of(results))
    metrics = sample_metrics(results, primary)
    judged, ranked = judge(results, primary, budget, list(labels))
    columns = columns_of(results, labels, metrics, budget)
    cells = [[column.cell(j) for column in columns] for j in judged]
    _mark_best(columns, judged, cells)
    rows = [
        TableRow(j.label, j.group, j.rank, tuple(line), curves_of(j.result, labels, metrics))
        for j, line in zip(judged, cells, strict=True)
    ]
    estimates = [row.metrics.get(primary) for result in results for row in result.rows]
    sizes = [e.n for e in estimates if e is not None and e.value is not None]
    return Table(
        key,
        primary,
        budget,
        metrics,
        tuple(columns),
        tuple(rows),
        tuple(_failures(judged, labels)),
        (min(sizes, default=0), max(sizes, default=0)),
        tuple(sorted({clean(r.environment.get("device") or "not recorded") for r in results})),
        tuple(sorted({len(r.seeds) for r in results})),
        tuple(Ranking(f.division, "network" if f.network else "method", r.facts) for f, r in ranked),
    )


def build(
    results: Sequence[Result], rank_steps: int = STEPS, primary: Mapping[str, str] | None = None
) -> dict[TableKey, Table]:
    """One table per benchmark, protocol hash, task and task version, in that order (newest protocol version first).

    Args:
        results: what to show; their order does not matter.
        rank_steps: budget of fixed steps at which entries are ranked.
        primary: the ranking metric by kind of task; :data:`~fmbench.report.ranking.PRIMARY` unless given.
    """
    groups: dict[TableKey, list[Result]] = {}
    for result in results:
        benchmark, task = result.benchmark, result.task
        version, task_version = str(benchmark.get("version", "")), str(task.get("version", ""))
        key = TableKey(
            clean(benchmark["name"]),
            clean(version),
            clean(benchmark["sha256"]),
            clean(task["name"]),
            clean(task_version),
        )
        groups.setdefault(key, []).append(result)

    def newest_first(key: TableKey) -> tuple:
        version = int(key.version) if key.version.isdecimal() else 0
        return key.benchmark, -version, key.version, key.sha256, key.task, key.task_version

    candidates = primary or PRIMARY
    return {
        k: _table(k, groups[k], rank_steps, primary_metric(groups[k], candidates))
        for k in sorted(groups, key=newest_first)
    }
