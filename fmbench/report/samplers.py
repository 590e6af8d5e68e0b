"""The samplers of a table, their labels, and the row of an entry for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fmbench.records.result import Result, Row
from fmbench.records.sampler import UNSAMPLED, Sampler


def samplers_of(results: Iterable[Result]) -> list[Sampler]:
    """All samplers in the results: fixed steps in increasing number, then adaptive solvers by name."""
    found = {row.sampler for result in results for row in result.rows if row.solver != UNSAMPLED}
    return sorted(found, key=lambda s: (s.steps is None, s.steps or 0, s.solver, s.guidance))


def labels_of(samplers: Sequence[Sampler]) -> dict[Sampler, str]:
    """``8`` (``heun 8`` beside other fixed-step solvers) or ``dopri5`` for each, followed by ``g2`` for a guidance of 2."""
    several = len({s.solver for s in samplers if s.steps is not None}) > 1

    def label(sampler: Sampler) -> str:
        if sampler.steps is None:
            text = sampler.solver
        else:
            text = f"{sampler.solver} {sampler.steps}" if several else str(sampler.steps)
        return text if sampler.guidance == 1 else f"{text} g{sampler.guidance:g}"

    return {sampler: label(sampler) for sampler in samplers}


def unsampled_row(result: Result) -> Row | None:
    """The row of samples that were not drawn by a solver, such as real ones."""
    return next((row for row in result.rows if row.solver == UNSAMPLED), None)


def rows_of(result: Result, samplers: Iterable[Sampler]) -> dict[Sampler, Row]:
    """The row of a result for each sampler that it has one for; the one row of real samples stands for every sampler."""
    own = {row.sampler: row for row in result.rows}
    unsampled = unsampled_row(result)
    found = {sampler: own.get(sampler, unsampled) for sampler in samplers}
    return {sampler: row for sampler, row in found.items() if row is not None}
