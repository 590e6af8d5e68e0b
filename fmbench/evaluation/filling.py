"""Completion of a result cell by cell: valid cells stay, missing ones are measured, replaced ones are retired."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fmbench.evaluation.acceleration import Acceleration
from fmbench.evaluation.cost.costs import sampler_mflop
from fmbench.evaluation.evaluation import Evaluation
from fmbench.evaluation.flow_scoring import FlowScorer
from fmbench.evaluation.wanted import Wanted
from fmbench.evaluation.witness import field_witness
from fmbench.execution.foreign import ForeignError
from fmbench.records.file import own_run
from fmbench.records.metric import CORE, EXTENDED, METRICS
from fmbench.records.result import Estimate, Result, Row
from fmbench.records.sampler import Sampler
from fmbench.records.sidecar import Witness

TOLERANCE = 1e-3
"""Relative difference between two measurements of one number: the same weights give samples that differ in their last bits between machines."""
NEW = "new"
"""Temporary name of the present run."""
MOST_RETIRED = 40
"""Number of replaced values that a file retains, the last ones."""
DIGITS = 6
"""Significant digits of them."""


def near(one: Estimate, other: Estimate) -> bool:
    """Whether two measurements under the same key agree: within :data:`TOLERANCE`, or a tenth of their interval."""
    if one.value is None or other.value is None:
        return one.value is other.value
    width = min((e.ci[1] - e.ci[0] for e in (one, other) if e.ci is not None), default=0.0)
    return abs(one.value - other.value) <= max(TOLERANCE * max(abs(one.value), abs(other.value)), width / 10)


def _keyed(estimates: Mapping[str, Estimate], keys: Mapping[str, str]) -> dict[str, Estimate]:
    return {name: dataclasses.replace(estimate, key=keys[name], run=NEW) for name, estimate in estimates.items()}


def _disputed(name: str, label: str, old: Estimate, new: Estimate) -> ValueError:
    return ValueError(
        f"{name} is disputed: {label} is {old.value} in the file and {new.value} now, of the same weights, code and versions; "
        "--overwrite replaces the file, another --out leaves it"
    )


def united(
    old: Mapping[str, Estimate], new: Mapping[str, Estimate], order: Sequence[str], what: str
) -> dict[str, Estimate]:
    """The union of two tables, in the order given: under the same key the older value stays.

    Raises ValueError in one line, which names ``what``, where the two disagree.
    """
    for name in new:
        if name in old and old[name].key == new[name].key and not near(old[name], new[name]):
            raise _disputed(what, name, old[name], new[name])
    chosen = {**new, **{n: e for n, e in old.items() if n not in new or new[n].key == e.key}}
    return {name: chosen[name] for name in order}


class Filling:
    """One evaluation and its stored result ``held`` (None: nothing is stored)."""

    def __init__(self, run: Evaluation, want: Wanted, held: Result | None) -> None:
        self.run, self.want, self.held = run, want, held
        self.rows = {} if held is None else {row.id: row for row in held.rows if row.id}
        self.flows: FlowScorer = run.flow_scorer(want.flow_lacks(held))

    def _endpoints(self, names: Sequence[str]) -> Any:
        """End points of the reference solve, when a metric needs them."""
        with self.run.watch.phase("flow"):
            return self.flows.endpoints() if any(METRICS[name].first_seed for name in names) else None

    def _drawn(self, sampler: Sampler, names: Sequence[str], timed: bool) -> Row:
        if self.run.model is None:
            return self.run.data_row(names)
        return self.run.accelerated_row(sampler, self._endpoints(names), names, timed)

    def row(self, name: str, sampler: Sampler) -> Row:
        """A draw with all its metrics; only missing ones are measured."""
        everything, held = list(self.want.keys), self.rows.get(name)
        if held is None or (held.failed is not None and self.want.lacks(held)):
            made = self._drawn(sampler, everything, timed=bool(self.want.batches))
            keyed = _keyed(made.metrics, self.want.keys)
            return dataclasses.replace(made, id=name, run=NEW, metrics=keyed, mflop=self._mflop(sampler, made))
        names, timed = self.want.lacks(held), self.want.timed(held)
        kept = {n: e for n, e in held.metrics.items() if n in self.want.keys and n not in names}
        if not names:
            whole = dataclasses.replace(held, metrics={n: kept[n] for n in everything})
            return whole if timed else self._timed(sampler, whole)
        plain = self.run.options.acceleration == Acceleration()
        if timed and plain and self.run.model is not None and all(METRICS[n].first_seed for n in names):
            made = self.run.paired_row(sampler, self._endpoints(names), names)
        else:
            made = self._drawn(sampler, names, not timed)
            made = self._checked(held, made, sampler, list(kept))
        what = f"{self.run.name}, {sampler.label}"
        metrics = united(kept, _keyed(made.metrics, self.want.keys), everything, what)
        return dataclasses.replace(
            held,
            metrics=metrics,
            latency=held.latency if timed else made.latency,
            mflop=self._mflop(sampler, held) if held.mflop is None else held.mflop,
            witness=held.witness or made.witness,
        )

    def _mflop(self, sampler: Sampler, row: Row) -> float | None:
        """Operations per sample of a row with samples of a model."""
        return sampler_mflop(self.run.model, sampler, row.total_nfe) if self.run.model and row.samples else None

    def _timed(self, sampler: Sampler, held: Row) -> Row:
        """A row with its missing latencies added; no samples are drawn for metrics."""
        mflop = self._mflop(sampler, held) if held.mflop is None else held.mflop
        return dataclasses.replace(held, latency=self.run.latency(sampler), mflop=mflop)

    def _checked(self, held: Row, made: Row, sampler: Sampler, kept: list[str]) -> Row:
        """The measured row; for other samples than the file's, with the ``kept`` metrics too. Raises ForeignError if one of them failed only."""
        if made.failed != held.failed:
            raise ForeignError(
                f"{sampler.label} {'failed' if made.failed else 'did not fail'} this time: {made.failed or held.failed}; "
                "--overwrite replaces the file, another --out leaves it"
            )
        if made.samples.get("sha256") == held.samples.get("sha256") or not kept:
            return made
        rest = self._drawn(sampler, kept, timed=False)
        return dataclasses.replace(made, metrics={**made.metrics, **rest.metrics})

    def flow(self) -> dict[str, Estimate]:
        """The metrics of the flow."""
        same = self.held is not None and self.held.flow_id == self.want.flow
        old = (
            {n: e for n, e in self.held.flow.items() if e.key == self.want.flow_keys.get(n)}
            if same and self.held
            else {}
        )
        new: dict[str, Estimate] = {}
        for phase, tier in (("flow", CORE), ("extended", EXTENDED)):
            with self.run.watch.phase(phase):
                new |= _keyed(self.flows.score((tier,)), self.want.flow_keys)
        return united(old, new, list(self.want.flow_keys), self.run.name)

    def cost(self) -> Mapping[str, Any]:
        """Operations, memory and energy; measured again when the first draw has changed."""
        first = next(iter(self.want.draws))
        kept = self.held is not None and self.held.rows[0].id == first and self.held.cost
        return kept or self.run.cost(timed=bool(self.want.batches))

    def filled(self) -> Result:
        """The complete result. Raises ValueError in one line when two measurements under one key disagree."""
        total = len(self.want.draws) + 1
        self.run.report(self.run.name, 0, total)
        flow, rows = self.flow(), []
        for index, (name, sampler) in enumerate(self.want.draws.items()):
            if self.run.model is not None:
                self.run.report(self.run.name, index + 1, total)
            rows.append(self.row(name, sampler))
        made = dataclasses.replace(
            self.run.result(rows, flow, self.cost()),
            flow_id=self.want.flow,
            flow_witness=self._flow_witness(),
            codes=() if self.held is None else self.held.codes,
        )
        return joined(self.held, made)

    def _flow_witness(self) -> Witness | None:
        """Witness of the field that the flow metrics were measured on."""
        held = self.held if self.held is not None and self.held.flow_id == self.want.flow else None
        return (held and held.flow_witness) or field_witness(self.run.model, self.run.options.seeds(self.run.spec)[0])


def retired(held: Result, made: Result) -> dict[str, dict[str, Any]]:
    """By draw and metric: values of a result that the other lacks, and earlier retired ones; the last :data:`MOST_RETIRED`."""
    # What has no key has no name either: it cannot be what another is.
    now = {(row.id, n): e.key for row in made.rows for n, e in row.metrics.items() if e.key}
    now |= {(f"flow:{made.flow_id}", n): e.key for n, e in made.flow.items() if e.key}
    tables = [(row.id, row.metrics) for row in held.rows] + [(f"flow:{held.flow_id}", held.flow)]
    items = [(draw, metric, cell) for draw, table in held.retired.items() for metric, cell in table.items()]
    for draw, table in tables:
        for name, e in table.items():
            if e.value is not None and now.get((draw, name)) != e.key:
                cell = {"k": e.key, "value": e.value, "ci": None if e.ci is None else list(e.ci), "n": e.n}
                items.append((draw, name, {key: value for key, value in cell.items() if value is not None}))
    return _shortened(items)


def shortened(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Retired values as they are kept: the last :data:`MOST_RETIRED`, to :data:`DIGITS` digits, because they are history only."""
    return _shortened([(draw, name, cell) for draw, cells in table.items() for name, cell in cells.items()])


def _shortened(items: Sequence[tuple[str, str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    def brief(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [brief(one) for one in value]
        return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

    found: dict[str, dict[str, Any]] = {}
    for draw, name, cell in items[-MOST_RETIRED:]:
        found.setdefault(draw, {})[name] = {key: brief(value) for key, value in cell.items()}
    return found


def _with_runs(made: Result, name: Callable[[str], str]) -> Result:
    """A result with its runs renamed."""

    def renamed(table: Mapping[str, Estimate]) -> dict[str, Estimate]:
        return {n: dataclasses.replace(e, run=name(e.run)) for n, e in table.items()}

    rows = tuple(dataclasses.replace(row, run=name(row.run), metrics=renamed(row.metrics)) for row in made.rows)
    return dataclasses.replace(made, rows=rows, flow=renamed(made.flow))


def _longer(facts: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run with the durations of two added up."""
    one, two = facts.get("phases", {}), more.get("phases", {})
    both = {name: round(one.get(name, 0.0) + two.get(name, 0.0), 3) for name in dict.fromkeys((*one, *two))}
    return {**facts, "seconds": round(facts["seconds"] + more["seconds"], 3), "phases": both}


def joined(held: Result | None, made: Result) -> Result:
    """The filled result with the run of every value recorded; its own run is that of the first draws."""
    if held is None:
        return _with_runs(made, lambda run: "")
    old, new = own_run(held.to_json()), own_run(made.to_json())
    replaced = all(row.run == NEW for row in made.rows)
    own, other = (new, old) if replaced else (old, new)
    called = {NEW: new.name, "": old.name}
    named = _with_runs(made, lambda run: called.get(run, run))
    tables = [*(row.metrics for row in named.rows), named.flow]
    used = {row.run for row in named.rows} | {e.run for table in tables for e in table.values()}
    runs = {name: facts for name, facts in {**held.runs, other.name: other.facts}.items() if name in used - {own.name}}
    final = _with_runs(named, lambda run: "" if run == own.name else run)
    # A run of clocks alone made no number: its time counts with the run that it completes.
    facts = own.facts if replaced or new.name in used else _longer(own.facts, new.facts)
    return dataclasses.replace(final, runs=runs, retired=retired(held, made), **{"phases": {}, **facts})
