"""Which of several entries differ: Holm over all pairs of an empirical-Bayes moderated t.

Notation: ``y`` (..., k, n) are k entries measured on n units that all of them share (evaluation seeds, or jackknife groups), the m = k (k - 1)
/ 2 pairs stand in the order of ``numpy.triu_indices(k, 1)``, leading axes are independent repetitions, which only simulations have.

1. The *differences* of a pair over the units are judged, so what all entries of a unit share cancels, whatever it is.
2. Their variances, of n - 1 degrees each, are shrunk to a common one (:func:`moderated`): five seeds know little of their own spread.
3. Holm's procedure over all pairs (:func:`holm`): with 95 % probability none of the differences that it names is false.

A claim about *methods* needs several trainings (:func:`method`), a claim about *networks* one (:func:`network`); the two never share a family.
Without raw values the stated intervals are compared, unpaired (:func:`unpaired`). ``fmbench validate-ranking`` simulates error and power.
Moderation: Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004). Holm, Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

RULE = "holm-moderated-1"
ALPHA = 0.05
"""Probability that a family of entries claims any difference that is not there."""

_ROUNDING = 1e-24
"""Variances below this share of the squared values are rounding errors, and are replaced by a floor far below a typical variance."""
_FLOOR = 1e-5


@dataclass(frozen=True)
class PairTests:
    """Test statistics of every pair.

    Attributes:
        t: (..., m) absolute difference in standard errors.
        freedom: degrees of Student's t, (..., 1) where all pairs have the same, else (..., m).
        prior: degrees d0 and variance s0^2 that the variances were shrunk with and to, (..., 1) each; None where none was.
    """

    t: np.ndarray
    freedom: np.ndarray
    prior: tuple[np.ndarray, np.ndarray] | None = None

    def p_values(self) -> np.ndarray:
        """Two-sided probability of a larger ``t`` between equal entries, (..., m), not yet corrected for the number of pairs."""
        return 2 * special.stdtr(self.freedom, -self.t)


@dataclass(frozen=True)
class Trainings:
    """Summary of the trainings of k entries, the input of :func:`method`.

    Attributes:
        units: (..., k, n) means over trainings for every unit.
        variance: (..., k) variance over trainings of the mean over units.
        residual: (..., k) variance of the mean over trainings and units that is due to neither: training x unit residual mean square / (T n).
        counts: (k,) numbers T of trainings, at least 2.
    """

    units: np.ndarray
    variance: np.ndarray
    residual: np.ndarray
    counts: np.ndarray


def rows(k: int) -> Iterator[tuple[int, slice]]:
    """For every entry but the last: its index i, and where its pairs (i, i + 1), ..., (i, k - 1) stand among all pairs."""
    start = 0
    for i in range(k - 1):
        yield i, slice(start, start + k - 1 - i)
        start += k - 1 - i


def differences(values: np.ndarray) -> np.ndarray:
    """Second minus first of every pair, (..., k) -> (..., m)."""
    k = values.shape[-1]
    out = np.empty((*values.shape[:-1], k * (k - 1) // 2))
    for i, place in rows(k):
        np.subtract(values[..., i + 1 :], values[..., i, None], out=out[..., place])
    return out


def sums(values: np.ndarray) -> np.ndarray:
    """First plus second of every pair, (..., k) -> (..., m)."""
    k = values.shape[-1]
    out = np.empty((*values.shape[:-1], k * (k - 1) // 2))
    for i, place in rows(k):
        np.add(values[..., i + 1 :], values[..., i, None], out=out[..., place])
    return out


def difference_variances(y: np.ndarray) -> np.ndarray:
    """Variance over the units (ddof 1) of the difference of every pair, (..., k, n) -> (..., m)."""
    k, n = y.shape[-2:]
    centred = y - y.mean(-1, keepdims=True)
    out = np.empty((*y.shape[:-2], k * (k - 1) // 2))
    for i, place in rows(k):
        gap = centred[..., i + 1 :, :] - centred[..., i, None, :]
        out[..., place] = np.einsum("...n,...n->...", gap, gap)
    out /= n - 1
    out[out <= _ROUNDING * np.square(y).max(initial=0.0)] = 0.0
    return out


def inverse_trigamma(x: np.ndarray) -> np.ndarray:
    """``y`` > 0 with trigamma(y) = x, for x > 0. Newton steps on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    with np.errstate(over="ignore"):
        y = 0.5 + 1 / x
    for _ in range(30):
        found = special.polygamma(1, y)
        step = found * (1 - found / x) / special.polygamma(2, y)
        y = y + step
        if (np.abs(step) <= 1e-12 * y).all():
            break
    # Where trigamma is a power of y to float64.
    return np.where(x > 1e7, x**-0.5, np.where(x < 1e-6, 1 / x, y))


def moderated(variances: np.ndarray, freedom: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances (..., m) shrunk to a common one by as much as they are alike, with its degrees d0 and value s0^2, (..., 1) each.

    ``(d0 s0^2 + d v) / (d0 + d)``, with d0 and s0^2 from mean and variance of log v; d0 is infinite where the variances differ no more than
    variances of ``freedom`` d (scalar or (m,)) would by chance, and 0 for a single one. A variance of 0 counts as far below the others.
    """
    m = variances.shape[-1]
    nothing = np.zeros((*variances.shape[:-1], 1))
    if m < 2:
        return variances, nothing, nothing
    d = np.atleast_1d(
        np.asarray(freedom, dtype=np.float64)
    )  # (1,) or (m,): one number is not repeated for millions of pairs
    v = _without_zeros(variances)
    e = np.log(v)
    e -= special.digamma(d / 2) - np.log(d / 2)
    excess = e.var(-1, ddof=1, keepdims=True) - special.polygamma(1, d / 2).mean()
    alike = excess <= 0
    d0 = 2 * inverse_trigamma(np.where(alike, 1.0, excess))
    fitted = np.exp(e.mean(-1, keepdims=True) + special.digamma(d0 / 2) - np.log(d0 / 2))
    s0 = np.where(alike, (v * d).mean(-1, keepdims=True) / d.mean(), fitted)
    d0 = np.where(alike, np.inf, d0)
    shrunk = v - s0
    shrunk *= d / (d0 + d)
    shrunk += s0
    return shrunk, d0, s0


def _without_zeros(variances: np.ndarray) -> np.ndarray:
    positive = variances > 0
    if positive.all():
        return variances
    count = positive.sum(-1, keepdims=True)
    logs = np.log(variances, where=positive, out=np.zeros_like(variances)).sum(-1, keepdims=True)
    floor = np.where(count > 0, _FLOOR * np.exp(logs / np.maximum(count, 1)), np.finfo(np.float64).tiny)
    return np.maximum(variances, floor)


def _ratio(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """``|difference| / sqrt(variance)``: 0 for no difference, infinite for one without any variance."""
    ratio, error = np.abs(difference), np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio /= error
    ratio[np.isnan(ratio)] = 0.0
    return ratio


def network(y: np.ndarray) -> PairTests:
    """Test statistics from one training of each entry: a moderated paired t on the units, (..., k, n) with n >= 2."""
    k, n = y.shape[-2:]
    variance, d0, s0 = moderated(difference_variances(y), n - 1)
    t = _ratio(differences(y.mean(-1)), variance) * n**0.5
    return PairTests(t, np.minimum(d0 + n - 1, (k - 1) * (n - 1)), (d0, s0 / n))


def trainings(entries: Sequence[np.ndarray]) -> Trainings:
    """Summary of raw values, one array (..., T, n) an entry; T may differ between entries, n may not."""
    means = [y.mean(-2) for y in entries]
    per_training = [y.mean(-1) for y in entries]
    residual = []
    for y, unit, own in zip(entries, means, per_training, strict=True):
        count, n = y.shape[-2:]
        left = y - unit[..., None, :] - own[..., :, None] + unit.mean(-1)[..., None, None]
        freedom = max((count - 1) * (n - 1), 1)
        residual.append((left**2).sum((-1, -2)) / freedom / (count * n))
    return Trainings(
        np.stack(means, -2),
        np.stack([own.var(-1, ddof=1) for own in per_training], -1),
        np.stack(residual, -1),
        np.array([y.shape[-2] for y in entries]),
    )


def method(of: Trainings) -> PairTests:
    """Test statistics about methods: trainings are drawn anew for each entry, units are shared by all.

    The variance of a difference is that between trainings, moderated over the entries, plus what the trainings of an entry share of the
    evaluation noise, which more trainings do not average away: the paired variance of the training means less the residuals in it. Of two
    entries nothing can be learnt about variances in general: theirs stay their own, with Welch's degrees.
    """
    counts = of.counts
    k, n = of.units.shape[-2:]
    spread, d0, s0 = moderated(of.variance, counts - 1)
    if k == 2:
        spread, d0 = of.variance, np.zeros_like(d0)
    paired, prior, _ = moderated(difference_variances(of.units), n - 1)
    own = sums(spread / counts)
    least = np.concatenate([np.minimum(counts[i], counts[i + 1 :]) for i in range(k - 1)]) if k > 1 else counts[:0]
    own_freedom = np.minimum(d0 + least - 1, (counts - 1).sum())
    if k == 2:
        with np.errstate(invalid="ignore"):
            welch = own**2 / sums((spread / counts) ** 2 / (counts - 1))
        own_freedom = np.where(np.isfinite(welch), welch, own_freedom)
    shared = np.maximum(paired / n - sums(of.residual), 0)
    shared_freedom = np.minimum(prior + n - 1, (k - 1) * (n - 1))
    variance = own + shared
    with np.errstate(divide="ignore", invalid="ignore"):
        t = _ratio(differences(of.units.mean(-1)), variance)
        freedom = variance**2 / (own**2 / own_freedom + shared**2 / shared_freedom)
    return PairTests(t, np.where(np.isfinite(freedom), freedom, own_freedom), (d0, s0))


def unpaired(values: np.ndarray, low: np.ndarray, high: np.ndarray, freedom: np.ndarray) -> PairTests:
    """Test statistics from 95 % intervals alone, each of Student's t with its ``freedom``; all (k,).

    A difference is measured against the sides of the two intervals that face each other (Zou and Donner, Statist. Med. 27, 2008), with the
    smaller of both freedoms. What all entries share does not cancel, which errs towards "not separated".
    """
    quantile = -special.stdtrit(freedom, 0.025)
    below, above = (values - low) / quantile, (high - values) / quantile
    d = differences(values)
    t, degrees = np.empty_like(d), np.empty_like(d)
    for i, place in rows(len(values)):
        rising = d[place] > 0
        mine = np.where(rising, above[i], below[i])
        theirs = np.where(rising, below[i + 1 :], above[i + 1 :])
        t[place] = _ratio(d[place], mine**2 + theirs**2)
        degrees[place] = np.minimum(freedom[i], freedom[i + 1 :])
    return PairTests(t, degrees)


def holm(evidence: PairTests, alpha: float = ALPHA) -> np.ndarray:
    """Which pairs differ, (..., m) booleans: Holm's step-down procedure at the family-wise level ``alpha``.

    Not by sorting: with r pairs rejected, all that pass at the level alpha / (m - r) are, and so on until no more do, which is the same.
    """
    m = evidence.t.shape[-1]
    one = evidence.freedom.shape[-1] == 1
    score = evidence.t if one else -evidence.p_values()
    rejected = np.zeros((*score.shape[:-1], 1), dtype=np.int64)
    while m:
        level = alpha / (m - rejected)
        hit = score >= (-special.stdtrit(evidence.freedom, level / 2) if one else -level)
        count = np.minimum(hit.sum(-1, keepdims=True), m - 1)
        if (count == rejected).all():
            return hit
        rejected = count
    return np.zeros(score.shape, dtype=bool)


def lower_and_higher(values: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of entries significantly lower, and number significantly higher, than each entry: (..., k), (..., m) -> twice (..., k)."""
    k = values.shape[-1]
    lower, higher = (np.zeros(values.shape, dtype=np.int64) for _ in range(2))
    for i, place in rows(k):
        rises = values[..., i + 1 :] > values[..., i, None]
        up, down = different[..., place] & rises, different[..., place] & ~rises
        higher[..., i] += up.sum(-1)
        lower[..., i] += down.sum(-1)
        lower[..., i + 1 :] += up
        higher[..., i + 1 :] += down
    return lower, higher
