"""Duplicate entries: shown as one row with all names, because a copy is no second method and must not take a second place."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from fmbench.records.result import Result

SAME = 1e-4
"""Relative difference up to which two values of the same weights are the same: samples differ in their last bits between machines."""
NAMES = 6
"""Names that a row shows; further ones are counted."""


class Candidate(NamedTuple):
    """A ranked result with its division and the value it is ordered by."""

    result: Result
    division: str
    value: float


def _marks(one: Candidate) -> Iterator[Hashable]:
    """The keys that identify copies of an entry: its weights, and the samples of every sampler."""
    weights = one.result.model.get("weights_sha256")
    if weights is not None:
        yield one.division, "weights", weights
    drawn = [(row.sampler, row.samples.get("sha256")) for row in one.result.rows if row.nfe]
    if drawn and all(sha is not None for _, sha in drawn):
        yield one.division, "samples", frozenset(drawn)


def copies(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Indices of the candidates grouped into sets of copies; each set, and the sets, in the order of the names.

    Copies are entries of one division with the same samples for every sampler, or with the same weights and the same value: the value is
    compared because a method may use the weights of another entry in a different way.
    """
    groups: dict[int, list[int]] = {}
    owner: dict[Hashable, int] = {}
    for index in sorted(range(len(candidates)), key=lambda i: str(candidates[i].result.model["name"])):
        mine = candidates[index]
        marks = list(_marks(mine))
        known = (owner[mark] for mark in marks if mark in owner)
        first = next((f for f in known if math.isclose(candidates[f].value, mine.value, rel_tol=SAME)), index)
        groups.setdefault(first, []).append(index)
        for mark in marks:
            owner.setdefault(mark, first)
    return list(groups.values())


def joined(names: Sequence[str]) -> str:
    """``cfm = fm = rf-1``, with the number of those that are left out."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return " = ".join(names[:NAMES]) + more
