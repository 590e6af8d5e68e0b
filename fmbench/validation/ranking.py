"""Simulation of the ranking's family-wise error among equal entries, and of its power: ``fmbench validate-ranking``.

Entries are drawn on the scale that they are compared on: a mean, an effect of the unit (evaluation seed or jackknife group) that all entries
share and that is twice as large as their own noise, and normal noise of their own. Their spreads are equal, or differ up to fourfold, evenly in
the logarithm. The rule of the report (:mod:`fmbench.statistics.comparisons`) stands beside the one it replaced, the paired t of every pair by
itself, on the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fmbench.statistics.comparisons import (
    PairTests,
    difference_variances,
    differences,
    holm,
    method,
    network,
    trainings,
)
from fmbench.statistics.student import t95

ENTRIES = (2, 5, 10, 20, 40)
UNITS = (3, 5, 10, 20)
TRAININGS = (3, 5)
SPREADS = {"equal": 1.0, "fourfold": 4.0}
"""Largest over smallest standard deviation of the entries."""

LIMITS = {"equal": 0.05, "fourfold": 0.08}
"""Largest family-wise error that is allowed."""
SHARED = 2.0
"""Standard deviation of what all entries of a unit share, in that of their own noise."""
GAP = 5.0
"""Difference of the worse half of the entries where power is measured, in standard deviations of a mean over the units."""
ALLOWANCE = 3.29 / 1.96
"""Half-widths by which an error may lie above its limit: dozens are checked, and that of two entries is the limit itself."""
REPETITIONS, QUICK = 10_000, 2_000
CHUNK = 2_000_000
"""Numbers in memory at a time."""
SEED = 20261126


@dataclass(frozen=True)
class Setting:
    """One family: ``network`` claims on ``units`` seeds or groups, or ``method`` claims on ``units`` trainings of five seeds each."""

    claim: str
    entries: int
    units: int
    spread: str


@dataclass(frozen=True)
class Share:
    """A share of repetitions (or their mean of shares) with the half-width of its 95 % Monte Carlo interval."""

    value: float
    half: float


@dataclass(frozen=True)
class Rates:
    """The error rates of a rule: family-wise among equal entries and with half of them worse, and the share of true differences found."""

    error: Share
    error_half: Share
    power: Share


@dataclass(frozen=True)
class Line:
    """One setting with the rule of the report, and the rule it replaced where that can be applied."""

    setting: Setting
    rule: Rates
    old: Rates | None

    @property
    def held(self) -> bool:
        """Whether all simulated errors are within their limits, up to a deviation that chance exceeds once in 2,000 times."""
        limit = LIMITS[self.setting.spread]
        return all(share.value - ALLOWANCE * share.half <= limit for share in (self.rule.error, self.rule.error_half))


def settings() -> list[Setting]:
    """All settings of the report, in its order."""
    kinds = [("network", n) for n in UNITS] + [("method", n) for n in TRAININGS]
    return [Setting(claim, k, n, spread) for claim, n in kinds for spread in SPREADS for k in ENTRIES]


def spreads(entries: int, ratio: float) -> np.ndarray:
    """Standard deviations of the entries, (entries,): log-uniform over a factor ``ratio``, root mean square 1."""
    found = ratio ** np.linspace(-0.5, 0.5, entries)
    return found / np.sqrt((found**2).mean())


def draw(setting: Setting, gap: float, repetitions: int, random: np.random.Generator) -> np.ndarray:
    """Values (repetitions, entries, units), or (repetitions, entries, trainings, 5); the later half of the entries is worse by ``gap``.

    Spreads are in random order. Trainings share the evaluation noise of their entry, as large as the spread between trainings.
    """
    k, n = setting.entries, setting.units
    own = random.permuted(np.tile(spreads(k, SPREADS[setting.spread]), (repetitions, 1)), axis=1)
    mean = np.where(np.arange(k) < k / 2, 0.0, gap / math.sqrt(n))
    if setting.claim == "network":
        noise = own[:, :, None] * random.standard_normal((repetitions, k, n))
        return mean[:, None] + noise + SHARED * random.standard_normal((repetitions, 1, n))
    between = own[:, :, None, None] * random.standard_normal((repetitions, k, n, 1))
    seeds = own[:, :, None, None] * random.standard_normal((repetitions, k, 1, 5)) / 2
    left = own[:, :, None, None] * random.standard_normal((repetitions, k, n, 5)) / 2
    return mean[:, None, None] + between + seeds + left + SHARED * random.standard_normal((repetitions, 1, 1, 5))


def evidence(setting: Setting, y: np.ndarray) -> PairTests:
    """The evidence of the report's rule for the values of :func:`draw`."""
    if setting.claim == "network":
        return network(y)
    return method(trainings([y[:, i] for i in range(setting.entries)]))


def old_rule(y: np.ndarray) -> np.ndarray:
    """Claims of the previous rule, (repetitions, pairs) booleans: the 95 % paired t interval of each pair by itself excludes 0."""
    n = y.shape[-1]
    error = np.sqrt(difference_variances(y) / n)
    return np.abs(differences(y.mean(-1))) > t95(n - 1) * error


def _judged(claimed: np.ndarray, mean: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every repetition: whether a claim is false (no difference, or the wrong side), and the share of true differences found."""
    side = np.where(claimed, np.sign(differences(mean)), 0)
    wrong = ((side != 0) & (side != truth)).any(-1)
    real = truth != 0
    return wrong, ((side == truth) & real).sum(-1) / max(real.sum(), 1)


def _share(values: np.ndarray) -> Share:
    """Mean with a 95 % interval: of Wilson where the values are 0 and 1, so that a share of 0 has a width too."""
    n, mean = len(values), float(values.mean())
    variance = float(values.var()) if 0 < mean < 1 else 0.0
    weight = t95(n - 1) ** 2 / n
    return Share(mean, math.sqrt(weight * (variance + weight / 4)) / (1 + weight))


def _rates(setting: Setting, repetitions: int, rule: Callable[[np.ndarray], np.ndarray], part: int) -> Rates:
    size = setting.entries * max(setting.entries, setting.units * (5 if setting.claim == "method" else 1))
    found: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {0.0: [], GAP: []}
    for gap, judged in found.items():
        random = np.random.default_rng([SEED, part, int(gap)])
        truth = np.sign(differences(np.where(np.arange(setting.entries) < setting.entries / 2, 0.0, gap)))
        left = repetitions
        while left:
            count = min(left, max(1, CHUNK // size))
            y = draw(setting, gap, count, random)
            judged.append(_judged(rule(y), y.reshape(*y.shape[:2], -1).mean(-1), truth))
            left -= count
    null, half = ([np.concatenate(values) for values in zip(*found[gap], strict=True)] for gap in (0.0, GAP))
    return Rates(_share(null[0]), _share(half[0]), _share(half[1]))


def simulate(setting: Setting, repetitions: int) -> Line:
    """Error and power of one setting, with its own seed, so that the values do not depend on other settings."""
    part = settings().index(setting)
    rule = _rates(setting, repetitions, lambda y: holm(evidence(setting, y)), part)
    old = _rates(setting, repetitions, old_rule, part) if setting.claim == "network" else None
    return Line(setting, rule, old)


def run(quick: bool = False, report: Callable[[str, int, int], None] | None = None) -> Iterator[Line]:
    """Simulate all settings, with fewer repetitions if ``quick``; ``report`` is called with (setting, done, total)."""
    chosen = settings()
    for index, setting in enumerate(chosen):
        if report is not None:
            report(f"{setting.claim}, k = {setting.entries}, n = {setting.units}", index, len(chosen))
        yield simulate(setting, QUICK if quick else REPETITIONS)
