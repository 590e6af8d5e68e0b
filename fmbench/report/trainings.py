"""Several trainings of one entry as one result: values are means over trainings, intervals cover training and evaluation noise.

Every training has its own file of results; what is here is computed by the report alone. The raw values of all of them go into the comparison
of methods (:mod:`fmbench.report.standings`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fmbench.records.names import split_training
from fmbench.records.result import Estimate, Result, Row
from fmbench.records.schema import known_metric
from fmbench.report.standings import METHOD, replicates
from fmbench.statistics.intervals import Z95, enclosing
from fmbench.statistics.nested import half_width, half_width_from

DEGREES = 19
"""Degrees of freedom that a stated interval of one training is taken to have: it comes from 20 groups or from many more samples."""


def joined_trainings(results: Sequence[Result]) -> list[Result]:
    """The results of a table, those of the trainings of one entry joined where they make a claim about its method.

    Trainings count in their order: the first, the second, and so on up to one that is missing or was measured otherwise, so that nobody can
    choose which of them are averaged. Below :data:`~fmbench.report.standings.METHOD` of them the row is that of the first network. Trainings
    that are in no mean are listed unranked, with the reason.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(split_training(str(result.model["name"]))[0], []).append(result)
    return [one for name, group in groups.items() for one in _of_entry(name, sorted(group, key=_index))]


def _index(result: Result) -> int:
    return split_training(str(result.model["name"]))[1] or 0


def _of_entry(name: str, results: Sequence[Result]) -> list[Result]:
    """The rows of one entry, whose trainings are in order."""
    first = results[0]
    # A folder may hold two results of one name from elsewhere; they are no trainings of each other.
    if len({_index(r) for r in results}) < len(results):
        return list(results)
    count = 0
    while count < len(results) and _index(results[count]) == count and _is_alike(first, results[count]):
        count += 1
    if count >= METHOD:
        return [_joined(name, results[:count]), *map(_apart, results[count:])]
    return [result if _index(result) == 0 else _apart(result) for result in results]


def _is_alike(first: Result, other: Result) -> bool:
    """Whether two results can be trainings of one recipe, on the same noise."""
    facts = ("method", "division", "conditional", "parameters")
    same = all(first.model.get(key) == other.model.get(key) for key in facts)
    return same and (first.seeds, first.samples_per_seed) == (other.seeds, other.samples_per_seed)


def _apart(result: Result) -> Result:
    """A training that is in no mean."""
    if not result.ranked:
        return result
    reason = (
        f"training {_index(result)} of its entry, in no mean: a row about a method needs {METHOD} or more that are alike, "
        "from the first on and without a gap"
    )
    return replace(result, ranked=False, unranked_because=(reason,))


def _joined(name: str, results: Sequence[Result]) -> Result:
    first, statuses = results[0], [r.status for r in results]
    rows = [_row(first_row, _same_sampler(results, first_row)) for first_row in first.rows]
    return replace(
        first,
        model={**first.model, "name": name, "trainings": len(results)},
        rows=tuple(rows),
        flow=_table([r.flow for r in results]),
        ranked=all(r.ranked for r in results),
        unranked_because=next((r.unranked_because for r in results if not r.ranked), ()),
        status=next((s for s in ("claimed", "rescored") if s in statuses), first.status),
    )


def _same_sampler(results: Sequence[Result], first: Row) -> list[Row | None]:
    return [next((row for row in r.rows if row.sampler == first.sampler), None) for r in results]


def _row(first: Row, rows: Sequence[Row | None]) -> Row:
    """One row of several trainings: it failed if one of them did; evaluations are means, times are those of the first."""
    there = [row for row in rows if row is not None]
    if len(there) < len(rows):
        reason = f"{len(rows) - len(there)} of {len(rows)} trainings were not run with this sampler"
        return replace(first, metrics={n: Estimate.missing(reason) for n in first.metrics}, nfe={}, failed=None)
    failed = next((f"training {k}: {row.failed}" for k, row in enumerate(there) if row.failed is not None), None)
    nfe = {key: float(np.mean([row.nfe.get(key, 0.0) for row in there])) for key in first.nfe}
    return replace(first, metrics=_table([row.metrics for row in there]), nfe=nfe, failed=failed)


def _table(tables: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """The estimates of several trainings, joined metric by metric."""
    return {name: joined([table.get(name) for table in tables], name) for name in tables[0]}


def joined(estimates: Sequence[Estimate | None], metric: str) -> Estimate:
    """The mean of one metric over trainings, its raw values (trainings, units) kept; missing where one of them has no value."""
    values = [None if e is None else e.value for e in estimates]
    if None in values:
        lacking = values.index(None)
        one = estimates[lacking]
        reason = (one and one.reason) or "not recorded"
        return Estimate.missing(reason if all(v is None for v in values) else f"training {lacking}: {reason}")
    found = [e for e in estimates if e is not None]
    if (other := _otherwise(found, metric)) is not None:
        return Estimate.missing(
            f"training {other} was measured by another version of the metric; run the benchmark again"
        )
    first, each = found[0], np.array(values, dtype=np.float64)
    units = [replicates(e) for e in found]
    sizes = {None if u is None else u.shape for u in units}
    stacked = None if None in sizes or len(sizes) > 1 else np.concatenate([u for u in units if u is not None])
    seeds = "per_seed" in first.details
    mean = float(each.mean())
    half = half_width(stacked) if stacked is not None and seeds else half_width_from(each, _errors(found), DEGREES)
    bounds = getattr(known_metric(metric), "range", (-np.inf, np.inf))
    details = {k: v for k, v in first.details.items() if k != "per_seed"} | {"per_training": each.tolist()}
    if stacked is not None and seeds:
        details["per_seed"] = stacked.tolist()
    raw = () if stacked is None else tuple(map(tuple, stacked.tolist()))
    ci = enclosing(mean, mean - half, mean + half, bounds)
    return replace(first, value=mean, ci=ci, n=sum(e.n for e in found), details=details, replicates=raw)  # type: ignore[arg-type]


def _otherwise(estimates: Sequence[Estimate], metric: str) -> int | None:
    """The first training whose value has another definition than that of training 0, by its key; None when there is none.

    Keys of metrics that compare with a reference solve hold the flow itself, and tell nothing.
    """
    info = known_metric(metric)
    if info is None or info.first_seed:
        return None
    keys = [e.key for e in estimates]
    return next((k for k, key in enumerate(keys) if key and keys[0] and key != keys[0]), None)


def _errors(estimates: Sequence[Estimate]) -> np.ndarray:
    """A standard error of each, from its stated interval; 0 where it states none."""
    return np.array([0.0 if e.ci is None else (e.ci[1] - e.ci[0]) / (2 * Z95) for e in estimates])
