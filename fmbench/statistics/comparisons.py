"""Which of several estimates is lower beyond doubt, and the ranks that follow. Imports nothing heavy: reports read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fmbench.records.result import Estimate
from fmbench.statistics.student import t95


@dataclass(frozen=True)
class Standing:
    """What an entry is ranked by: the 95 % interval of its metric and its value for every evaluation seed, if recorded."""

    interval: tuple[float, float]
    per_seed: tuple[float, ...] = ()


def standing(estimate: Estimate) -> Standing:
    """The standing of an estimate that has a value; without an interval it is a point."""
    assert estimate.value is not None
    interval = estimate.ci or (estimate.value, estimate.value)
    return Standing(interval, tuple(estimate.details.get("per_seed", ())))


def below(one: Standing, other: Standing) -> bool:
    """Whether ``one`` is lower beyond doubt.

    Every entry sees the same noise and the same reference samples, so with at least three evaluation seeds the *differences* are
    judged, by a 95 % Student t interval: what all entries of a seed share cancels. Otherwise the intervals must not overlap.
    """
    count = len(one.per_seed)
    if count < 3 or len(other.per_seed) != count:
        return one.interval[1] < other.interval[0]
    differences = [a - b for a, b in zip(one.per_seed, other.per_seed, strict=True)]
    return fmean(differences) + t95(count - 1) * stdev(differences) / math.sqrt(count) < 0


def shared_ranks(standings: Sequence[Standing], better: str) -> list[int]:
    """Rank of each: 1 + the number of others that are better beyond doubt (:func:`below`), so leaders that cannot be told apart share 1.

    Raises ValueError unless ``better`` is "lower" or "higher".
    """
    if better == "lower":
        return [1 + sum(below(other, mine) for other in standings) for mine in standings]
    if better == "higher":
        return [1 + sum(below(mine, other) for other in standings) for mine in standings]
    raise ValueError(f'cannot rank by a metric whose better side is {better!r}; it must be "lower" or "higher"')
