"""The values that entries of a division are compared by, and the ranks that follow.

Raw values decide, not the summary beside them: the value of every evaluation seed, or with one seed the values with one of 20 groups of rows
left out. Without them the stated intervals are compared, as if nothing were shared, which errs towards "not separated". The rule is that of
:mod:`fmbench.statistics.comparisons`; here numbers become its arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmbench.records.metric import Metric
from fmbench.records.result import Estimate
from fmbench.statistics import comparisons
from fmbench.statistics.comparisons import PairTests

FEWEST = 3
"""Least number of units to compare raw values; below it, intervals are compared."""
METHOD = 3
"""Least number of trainings for which an entry represents its method."""
GROUPS = 20
DRIFT = 0.1
"""Largest share by which a value may be away from those without a group, beside three standard errors of theirs."""
SHOWN_PAIRS = 1000
"""Pairs up to which the p-value of every one is written down."""
NETWORK = "network"


@dataclass(frozen=True)
class Standing:
    """The values that an entry is compared by.

    Attributes:
        value: the value it is ordered by: the mean of the raw values of seeds, else the stated value.
        interval: its stated 95 % interval; the value twice without one.
        units: raw values (trainings, units), None where there are fewer than three.
        groups: whether the units are groups of rows that were left out, not seeds.
        wholes: with groups, the value of every training on all of its rows, (trainings,).
        trainings: how many trainings the value is the mean of, also where their raw values are not recorded.
    """

    value: float
    interval: tuple[float, float]
    units: np.ndarray | None = None
    groups: bool = False
    wholes: np.ndarray | None = None
    trainings: int = 1

    @property
    def each(self) -> np.ndarray:
        """The stated value of every training, (trainings,)."""
        return np.array([self.value]) if self.wholes is None else self.wholes

    @property
    def claim(self) -> str:
        """The subject of a rank: ``network``, or ``method, mean of 5 trainings``."""
        count = max(self.trainings, 0 if self.units is None else len(self.units))
        return NETWORK if count < METHOD else f"method, mean of {count} trainings"

    @property
    def kind(self) -> tuple[bool, int]:
        """The key that two entries must share to be compared unit by unit."""
        return self.groups, 0 if self.units is None else self.units.shape[-1]


def is_network(of: Standing) -> bool:
    """Whether a rank is about these weights and not their method: there are one or two trainings."""
    return of.claim == NETWORK


@dataclass(frozen=True)
class Ranks:
    """The ranks of some entries, in the order they were given in.

    Attributes:
        lowest: 1 + the number of entries that are significantly better.
        highest: the number of entries minus those that are significantly worse.
        facts: rule, scale, units, number of pairs and of separated ones, prior and degrees, and p-values of the pairs.
    """

    lowest: list[int]
    highest: list[int]
    facts: Mapping[str, Any]


def replicates(estimate: Estimate) -> np.ndarray | None:
    """Raw values behind an interval, (trainings, units), None where too few are recorded."""
    raw = estimate.details.get("per_seed") or estimate.replicates
    if not len(raw):
        return None
    units = np.atleast_2d(np.asarray(raw, dtype=np.float64))
    return units if units.shape[-1] >= FEWEST else None


def standing(estimate: Estimate) -> Standing:
    """The standing of an estimate that has a value."""
    assert estimate.value is not None
    interval = estimate.ci or (estimate.value, estimate.value)
    units = replicates(estimate)
    groups = "per_seed" not in estimate.details
    value = estimate.value if units is None or groups else float(units.mean())
    wholes = np.atleast_1d(np.asarray(estimate.details.get("per_training", estimate.value), dtype=np.float64))
    count = len(wholes) if "per_training" in estimate.details else 1 if units is None else len(units)
    return Standing(value, interval, units, groups, wholes if groups and units is not None else None, count)


def incomplete(of: Standing) -> str | None:
    """The reason why an entry cannot be compared by its raw values; None when it can, or has none."""
    if of.units is None or not of.groups:
        return None
    for whole, without in zip(of.each, of.units, strict=True):
        error = np.sqrt((len(without) - 1) * without.var())
        if abs(whole - without.mean()) > DRIFT * abs(whole) + 3 * error:
            return _drifted(whole, without)
    return None


def _drifted(whole: float, without: np.ndarray) -> str:
    return f"its value {whole:.6g} does not belong to its values without a group, {without.min():.6g} to {without.max():.6g}"


def positive_distance(info: Metric) -> bool:
    """Whether a metric is compared by its logarithm: one that is never below 0 and has no upper limit."""
    low, high = info.range
    return low >= 0 and high == float("inf")


def _logarithmic(standings: Sequence[Standing], info: Metric) -> bool:
    """Whether the raw values of a family are all above 0, of a metric that has a logarithm."""
    if not positive_distance(info):
        return False
    units = [s.units for s in standings if s.units is not None]
    return all((u > 0).all() for u in units) and all((s.each > 0).all() for s in standings if s.groups)


def _scaled(of: Standing, log: bool) -> np.ndarray:
    """The averaged values, (trainings, units): those of seeds, or pseudo-values of groups centred on the full value, on the compared scale."""
    assert of.units is not None
    y = np.log(of.units) if log else of.units
    if not of.groups:
        return y
    whole = (np.log(of.each) if log else of.each)[:, None]
    return whole - (y.shape[-1] - 1) * (y - y.mean(-1, keepdims=True))


def _by_interval(standings: Sequence[Standing]) -> PairTests:
    low, high = (np.array([s.interval[side] for s in standings]) for side in (0, 1))
    units = [GROUPS if s.units is None else s.units.shape[-1] for s in standings]
    return comparisons.unpaired(
        np.array([s.value for s in standings]), low, high, np.array(units, dtype=np.float64) - 1
    )


def _paired(standings: Sequence[Standing], log: bool) -> tuple[PairTests, np.ndarray]:
    """Test statistics from raw values and the means it is about."""
    y = [_scaled(s, log) for s in standings]
    if all(len(units) >= METHOD for units in y):
        of = comparisons.trainings(y)
        return comparisons.method(of), of.units.mean(-1)
    first = np.stack([units[0] for units in y])
    return comparisons.network(first), first.mean(-1)


def _mixed(standings: Sequence[Standing], chosen: Sequence[int], log: bool) -> tuple[PairTests, np.ndarray]:
    """Test statistics where only the ``chosen`` share their units: theirs from raw values, that of all other pairs from intervals."""
    k = len(standings)
    found = _by_interval(standings)
    means = np.array([s.value for s in standings])
    if len(chosen) < 2:
        return found, means
    paired, _ = _paired([standings[i] for i in chosen], log)
    one, other = (np.array(chosen)[side] for side in np.triu_indices(len(chosen), 1))
    place = one * k - one * (one + 1) // 2 + other - one - 1
    t, freedom = found.t.copy(), found.freedom.copy()
    t[place], freedom[place] = paired.t, paired.freedom
    return PairTests(t, freedom, paired.prior), means


def compare(standings: Sequence[Standing], info: Metric) -> Ranks:
    """Ranks of entries of one claim by a metric. Raises ValueError for a metric that has no better side."""
    if info.better not in ("lower", "higher"):
        raise ValueError(
            f'cannot rank by {info.label!r}: its better side must be "lower" or "higher", got {info.better!r}'
        )
    k = len(standings)
    kinds = [s.kind for s in standings if s.units is not None]
    usual = max(set(kinds), key=lambda kind: (kinds.count(kind), kind)) if kinds else None
    chosen = [i for i, s in enumerate(standings) if s.units is not None and s.kind == usual]
    log = _logarithmic([standings[i] for i in chosen], info)
    evidence, means = _paired(standings, log) if len(chosen) == k else _mixed(standings, chosen, log)
    different = comparisons.holm(evidence)
    lower, higher = comparisons.lower_and_higher(means, different)
    before, behind = (lower, higher) if info.better == "lower" else (higher, lower)
    facts = _facts(evidence, different, usual, len(chosen), k, log)
    return Ranks((1 + before).tolist(), (k - behind).tolist(), facts)


def _rounded(values: np.ndarray | None) -> float | str | None:
    """Four digits of a single number, which any computer agrees on; JSON has no infinity."""
    if values is None or values.size != 1:
        return None
    return float(f"{values.item():.4g}") if np.isfinite(values.item()) else "infinite"


def _facts(
    evidence: PairTests, different: np.ndarray, kind: tuple[bool, int] | None, paired: int, k: int, log: bool
) -> dict[str, Any]:
    pairs = len(evidence.t)
    units = "" if kind is None else f"{kind[1]} {'groups of rows' if kind[0] else 'evaluation seeds'}"
    d0, s0 = evidence.prior or (None, None)
    return {
        "rule": comparisons.RULE,
        "level": comparisons.ALPHA,
        "entries": k,
        "pairs": pairs,
        "separated": int(different.sum()),
        "units": units,
        "paired": paired,
        "scale": "log" if log else "raw",
        "d0": _rounded(d0),
        "s0": _rounded(None if s0 is None else np.sqrt(s0)),
        "df": _rounded(evidence.freedom),
        "p": [float(f"{p:.2g}") for p in evidence.p_values()] if pairs <= SHOWN_PAIRS else None,
    }
