"""The samplers of a table: which there are, what they are called, and the row an entry has for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fmbench.records.result import Result, Row

NO_SOLVER = "none"
"""Solver of rows that were not sampled: the fresh real samples of the data anchor."""


class Sampler(NamedTuple):
    """What identifies a sampler within a protocol; ``steps`` is None for adaptive solvers."""

    solver: str
    steps: int | None
    guidance: float


def sampler_of(row: Row) -> Sampler:
    """The sampler of a row."""
    return Sampler(row.solver, row.steps, row.guidance)


def samplers_of(results: Sequence[Result]) -> list[Sampler]:
    """All samplers in the results: fixed steps in increasing number, then adaptive solvers by name."""
    found = {sampler_of(row) for result in results for row in result.rows if row.solver != NO_SOLVER}
    return sorted(found, key=lambda s: (s.steps is None, s.steps or 0, s.solver, s.guidance))


def sampler_label(sampler: Sampler, among: Sequence[Sampler]) -> str:
    """``8`` (``heun 8`` beside other fixed-step solvers) or ``dopri5``, followed by ``g2`` for a guidance of 2."""
    several = len({s.solver for s in among if s.steps is not None}) > 1
    if sampler.steps is None:
        label = sampler.solver
    else:
        label = f"{sampler.solver} {sampler.steps}" if several else str(sampler.steps)
    return label if sampler.guidance == 1 else f"{label} g{sampler.guidance:g}"


def row_for(result: Result, sampler: Sampler) -> Row | None:
    """The row of a sampler; the one row of real samples stands for every sampler."""
    rows = {sampler_of(row): row for row in result.rows}
    unsampled = next((row for row in result.rows if row.solver == NO_SOLVER), None)
    return rows.get(sampler, unsampled)
