"""Every result of a table in its place: anchor, ranked in its division, or not ranked and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fmbench.records.metric import Metric
from fmbench.records.result import Result, Row
from fmbench.records.sampler import Sampler
from fmbench.records.schema import known_metric
from fmbench.report.cells import clean
from fmbench.report.ranking import (
    DIVISIONS,
    Standing,
    anchor,
    division_of,
    rank_row,
    shared_ranks,
    standing,
    unranked_reason,
)
from fmbench.report.samplers import rows_of, unsampled_row

GROUPS = ("anchor", *DIVISIONS, "unranked")
"""The order of the rows of a table."""


@dataclass
class Judged:
    """A result in its place.

    Attributes:
        result: the result.
        group: one of :data:`GROUPS`.
        row: the row it is judged by, if it has one.
        value, standing: the primary metric there, when ranked.
        reason: why it is not ranked.
        rank: its rank in its division, when ranked.
        label: how the table calls it.
        rows: its row for each sampler of the table that it has one for.
    """

    result: Result
    group: str
    row: Row | None
    reason: str = ""
    value: float = 0.0
    standing: Standing | None = None
    rank: int | None = None
    label: str = ""
    rows: Mapping[Sampler, Row] = field(default_factory=dict)


def metric_info(name: str) -> Metric:
    """What is known about a metric; a metric of somebody's own is called by its name and ranks nobody."""
    return known_metric(name) or Metric(
        clean(name), "", "neither", "samples", (), "as the result says", "Not described by this version.", ""
    )


def _place(result: Result, primary: str, budget: int) -> Judged:
    row = rank_row(result, budget)
    name = anchor(result)
    if name is not None:
        row = row or unsampled_row(result)
    if name is not None and result.ranked:
        return Judged(result, "anchor", row, f"{name} anchor: bounds the others and is not ranked")
    if (reason := unranked_reason(result)) is not None:
        return Judged(result, "unranked", row, reason)
    if row is None:
        return Judged(result, "unranked", None, f"no sampler with at most {budget} measured evaluations")
    if row.failed is not None:
        return Judged(result, "unranked", row, f"failed: {row.failed}")
    estimate = row.metrics.get(primary)
    if estimate is None or estimate.value is None:
        return Judged(result, "unranked", row, f"{primary}: {(estimate and estimate.reason) or 'not recorded'}")
    return Judged(result, division_of(result), row, "", estimate.value, standing(estimate))


def judge(results: Sequence[Result], primary: str, budget: int, samplers: Sequence[Sampler] = ()) -> list[Judged]:
    """Every result in its place, in the order of the table: anchors, each division by rank, what is not ranked."""
    judged = [_place(result, primary, budget) for result in results]
    for j in judged:
        j.rows = rows_of(j.result, samplers)
    better = metric_info(primary).better
    for division in DIVISIONS:
        group = [j for j in judged if j.group == division]
        ranks = shared_ranks([j.standing for j in group if j.standing], better) if group else []
        for j, rank in zip(group, ranks, strict=True):
            j.rank = rank
    short = [clean(j.result.entry) for j in judged]
    bearers = Counter(short)
    for j, label in zip(judged, short, strict=True):
        j.label = clean(j.result.model["name"]) if bearers[label] > 1 else label
    sign = -1.0 if better == "higher" else 1.0

    def order(j: Judged) -> tuple:
        first = anchor(j.result) is None
        return GROUPS.index(j.group), first, j.rank or 0, sign * j.value, str(j.result.model["name"])

    return sorted(judged, key=order)
