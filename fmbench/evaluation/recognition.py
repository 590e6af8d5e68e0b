"""Reuse of results after an edit of the user's code: where its witnesses are reproduced, the values hold for the new code too."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping

from fmbench.evaluation.acceleration import accelerated
from fmbench.evaluation.evaluation import Evaluation
from fmbench.evaluation.wanted import Wanted, wanted
from fmbench.evaluation.witness import agree, field_witness, witness_of
from fmbench.execution.foreign import ForeignError, foreign
from fmbench.noise import BLOCK
from fmbench.records.result import Estimate, Result, Row
from fmbench.records.sampler import Sampler
from fmbench.registry import SOLVERS

CODE = "code_sha256"


def _comes_again(run: Evaluation, sampler: Sampler, held: Row) -> bool:
    """Whether the first block of a sampler reproduces the witness of a row and, on a fixed grid, its number of evaluations."""
    assert run.model is not None
    count = min(run.options.samples(run.spec), BLOCK)
    try:
        with foreign(), accelerated(run.model.method, run.options.acceleration):
            unit = run.unit(run.order(sampler, run.options.seeds(run.spec)[0], 0, count))
    except ForeignError:
        return False
    taken = {purpose: rows / count for purpose, rows in unit.counts.items() if rows}
    known = {purpose: nfe for purpose, nfe in held.nfe.items() if nfe}
    free = SOLVERS.resolve(sampler.solver).adaptive
    return (free or taken == known) and agree(held.witness, witness_of(unit.samples))


def _renamed(table: Mapping[str, Estimate], old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Estimate]:
    """Estimates with their old keys replaced by the new ones."""
    return {
        name: dataclasses.replace(e, key=new[name]) if e.key and e.key == old.get(name) else e
        for name, e in table.items()
    }


def recognised(run: Evaluation, want: Wanted, held: Result | None) -> Result | None:
    """The stored result of an evaluation with the keys of the present code.

    Where task, weights, recipe, samplers, seeds and samples are those wanted and only the hash of the user's code is another, the witness
    of the flow and of every sampler is computed again. When all agree, the result is served under the new hash; operations, times and
    cost, which an edit may change, are measured again. When one differs, nothing is renamed, so everything is measured again. At most one
    block of 256 is sampled by each sampler. The model must be where it is to be evaluated.
    """
    if held is None or run.model is None:
        return held
    if held.without_sidecar:
        warnings.warn(f"{run.name}: {held.without_sidecar}", stacklevel=2)
    was, now = held.model.get(CODE), run.model.identity.get(CODE)
    if was is None or now is None or was == now:
        return held
    model = dataclasses.replace(run.model, identity={**run.model.identity, CODE: was})
    before = wanted(run.spec, run.task, model, run.options)
    names = dict(zip(before.draws, want.draws, strict=True))
    if held.flow_id != before.flow and not any(row.id in names for row in held.rows):
        return held  # other weights, or another question: no number can be the same
    flow = held.flow_id == before.flow and held.flow_witness is not None
    if flow and not agree(held.flow_witness, field_witness(run.model, held.seeds[0])):
        return held
    known = [row for row in held.rows if row.id in names and row.witness is not None]
    if not all(_comes_again(run, before.draws[row.id], row) for row in known):
        return held
    if not known and not flow:
        return held
    keys = want.keys if flow else {name: before.keys[name] for name in want.keys}
    rows = tuple(
        dataclasses.replace(
            row, id=names[row.id], metrics=_renamed(row.metrics, before.keys, keys), latency=None, mflop=None
        )
        if row in known
        else row
        for row in held.rows
    )
    codes = tuple(code for code in dict.fromkeys((*held.codes, was)) if code != now)
    served = dataclasses.replace(held, rows=rows, cost={}, codes=codes)
    if not flow:
        return served
    return dataclasses.replace(served, flow=_renamed(held.flow, before.flow_keys, want.flow_keys), flow_id=want.flow)
