"""The classification of a table's results: anchor, ranked in its division, or not ranked with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fmbench.records.aliases import others
from fmbench.records.metric import Metric
from fmbench.records.result import Result, Row
from fmbench.records.sampler import Sampler
from fmbench.records.schema import known_metric
from fmbench.report.cells import clean
from fmbench.report.copies import Candidate, copies, joined
from fmbench.report.ranking import DIVISIONS, anchor, division_of, rank_row, unranked_reason
from fmbench.report.samplers import rows_of, unsampled_row
from fmbench.report.standings import Ranks, Standing, compare, incomplete, is_network, standing

GROUPS = ("anchor", *DIVISIONS, "unranked")
"""The order of the rows of a table."""


@dataclass
class Judged:
    """A result with its group, rank and place in a table.

    Attributes:
        result: the result.
        group: one of :data:`GROUPS`.
        row: the row it is judged by, if it has one.
        value, standing: the primary metric there, when ranked.
        reason: why it is not ranked.
        rank: its lowest and highest rank in its family, when ranked.
        place: its place in the order of the table.
        label: how the table calls it.
        rows: its row for each sampler of the table that it has one for.
        claims: how many kinds of claim its division has: 2 where methods and networks are ranked, apart from each other.
    """

    result: Result
    group: str
    row: Row | None
    reason: str = ""
    value: float = 0.0
    standing: Standing | None = None
    rank: tuple[int, int] | None = None
    place: int = 0
    label: str = ""
    rows: Mapping[Sampler, Row] = field(default_factory=dict)
    claims: int = 1


def metric_info(name: str) -> Metric:
    """The :class:`Metric` of a name; an unknown metric is labelled by its name and has no better side, so that it cannot rank."""
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
    mine = standing(estimate)
    if (reason := incomplete(mine)) is not None:
        return Judged(result, "unranked", row, f"incomplete: {reason}")
    return Judged(result, division_of(result), row, "", mine.value, mine)


@dataclass(frozen=True)
class Family:
    """Entries that are compared with each other: those of one division whose ranks claim the same kind of thing.

    Attributes:
        division: one of :data:`~fmbench.report.ranking.DIVISIONS`.
        network: whether the claim is about networks, not methods.
        members: indices of the entries.
        standings: the values that they are compared by.
    """

    division: str
    network: bool
    members: Sequence[int]
    standings: Sequence[Standing]


def families(judged: Sequence[Judged], standing_of: Callable[[Judged], Standing | None]) -> Iterator[Family]:
    """The families of a table for one metric, in the order of the divisions, networks first; entries without a value are in none."""
    found: dict[tuple[str, bool], list[tuple[int, Standing]]] = {}
    for index, j in enumerate(judged):
        mine = standing_of(j) if j.group in DIVISIONS else None
        if mine is not None:
            found.setdefault((j.group, is_network(mine)), []).append((index, mine))
    for division in DIVISIONS:
        for network in (True, False):
            if members := found.get((division, network)):
                yield Family(division, network, *zip(*members, strict=True))


def _others(result: Result) -> list[str]:
    """The other names of an entry; where several trainings are joined, also those that mean one of them."""
    return others(str(result.model["name"]), whole="trainings" in result.model)


def _named(judged: Sequence[Judged]) -> None:
    short = [joined([clean(j.result.entry), *map(clean, _others(j.result))]) for j in judged]
    bearers = Counter(short)
    for j, label in zip(judged, short, strict=True):
        j.label = clean(j.result.model["name"]) if bearers[label] > 1 else label


def _merged(judged: Sequence[Judged]) -> list[Judged]:
    """One result of each set of copies, labelled with all their names."""
    ranked = [j for j in judged if j.group in DIVISIONS]
    kept = [j for j in judged if j.group not in DIVISIONS]
    for indices in copies([Candidate(j.result, j.group, j.value) for j in ranked]):
        first = ranked[indices[0]]
        first.label = joined([ranked[i].label for i in indices])
        kept.append(first)
    return kept


def judge(
    results: Sequence[Result], primary: str, budget: int, samplers: Sequence[Sampler] = ()
) -> tuple[list[Judged], list[tuple[Family, Ranks]]]:
    """All results, judged and in the order of the table (anchors, each division by value, unranked), with the rankings of the divisions."""
    judged = [_place(result, primary, budget) for result in results]
    _named(judged)
    judged = _merged(judged)
    for j in judged:
        j.rows = rows_of(j.result, samplers)
    info = metric_info(primary)
    sign = -1.0 if info.better == "higher" else 1.0

    def order(j: Judged) -> tuple:
        first = anchor(j.result) is None
        return GROUPS.index(j.group), first, sign * j.value, str(j.result.model["name"])

    judged.sort(key=order)
    for place, j in enumerate(judged):
        j.place = place
    ranked = []
    found = list(families(judged, lambda j: j.standing))
    claims = Counter(family.division for family in found)
    for family in found:
        ranks = compare(family.standings, info)
        ranked.append((family, ranks))
        for index, lowest, highest in zip(family.members, ranks.lowest, ranks.highest, strict=True):
            judged[index].rank, judged[index].claims = (lowest, highest), claims[family.division]
    return judged, ranked
