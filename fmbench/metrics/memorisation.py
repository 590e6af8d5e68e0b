"""Memorisation: are generated samples nearer to the training data than fresh real samples are?

No single number settles it (Stein et al., arXiv:2306.04675, find that authenticity and C_T miss memorisation that is
visible by eye), so several are given: authenticity, the C_T score, exact copies and near copies. Distances are
Euclidean, on samples or on features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fmbench.metrics.evidence import QUADRATIC, Evidence
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import Z95, proportion_estimate
from fmbench.statistics.samples import checked_samples
from fmbench.transport.distances import nearest, tie_width
from fmbench.transport.placing import CPU, placed


def authentic(
    generated: np.ndarray, train: np.ndarray, own: Callable[[], np.ndarray] | None = None, device: str = CPU
) -> np.ndarray:
    """Whether every generated sample is authentic (Alaa et al., arXiv:2102.08921), (n,) of 0 and 1.

    It is when it lies farther from its nearest training point than that point lies from the nearest *other* training
    point; as far is not farther. AuthPct is 100 times the mean. Copies score 0; fresh samples of the true distribution score the probability
    that two nearest neighbours are not mutual: 0.33 in one dimension, 0.38 in two, rising to 0.5 in many.
    ``own`` gives :func:`own_distances` of the training points, where they may be known already; other distances are found on ``device``.
    Raises ValueError in one line for wrong shapes, values that are not finite, or fewer than two training points.
    """
    generated, train = _with_neighbours(generated, train)
    found = nearest(placed(generated, device), placed(train, device))
    points = found.index[:, 0]
    reach = (own_distances(train, device) if own is None else own())[points]
    return (found.squared[:, 0] > reach + tie_width(reach, train[points])).astype(np.float64)


def own_distances(train: np.ndarray, device: str = CPU) -> np.ndarray:
    """Squared distance from every one of (t, d) points to its nearest other one, (t,)."""
    return nearest(placed(train, device)).squared[:, 0]


def authenticity(generated: np.ndarray, train: np.ndarray) -> float:
    """Fraction of authentic samples, in [0, 1]. Raises ValueError like :func:`authentic`."""
    return float(authentic(generated, train).mean())


@dataclass(frozen=True)
class Cells:
    """What the C_T score takes from training and held-out points alone.

    Attributes:
        project: (n, d) points -> their principal components.
        cell: principal components -> (n,) indices of k-means cells.
        train: (t, c) principal components of the training points.
        distances: (h,) squared distances of the held-out points to the nearest training point, on the components.
        labels: (h,) their cells.
    """

    project: Callable[[np.ndarray], np.ndarray]
    cell: Callable[[np.ndarray], np.ndarray]
    train: np.ndarray
    distances: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(
        cls,
        train: np.ndarray,
        heldout: np.ndarray,
        cells: int = 3,
        components: int = 64,
        seed: int = 0,
        device: str = CPU,
    ) -> Cells:
        """Cells of (t, d) training and (h, d) held-out points; arguments and errors: :func:`ct_score`."""
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        heldout, train = checked_samples(heldout, train, least=2)
        if not 1 <= cells <= len(train):
            raise ValueError(f"cells must be between 1 and the {len(train)} training points, got {cells}")
        with np.errstate(invalid="ignore"):  # equal training points have no variance to give shares of
            pca = PCA(min(components, *train.shape), random_state=seed).fit(train)
        train, heldout = pca.transform(train), pca.transform(heldout)
        clusters = KMeans(cells, n_init=10, random_state=seed).fit(train)  # pyright: ignore[reportArgumentType]
        cell = lambda points: np.asarray(clusters.predict(points))  # noqa: E731
        distances = nearest(placed(heldout, device), placed(train, device)).squared[:, 0]
        return cls(pca.transform, cell, train, distances, cell(heldout))


def ct_score(
    generated: np.ndarray,
    train: np.ndarray,
    heldout: np.ndarray,
    cells: int = 3,
    components: int = 64,
    least: int = 20,
    seed: int = 0,
    known: Callable[[], Cells] | None = None,
    device: str = CPU,
) -> float:
    """C_T score (Meehan, Chaudhuri & Dasgupta, arXiv:2004.05675): a z score, far below 0 for copying, far above for
    underfitting.

    Points are projected on the first principal components of the training data, the projections are cut into k-means
    cells, and in every cell the distances to the nearest training point are compared between generated and held-out
    points by the Mann-Whitney U statistic, standardised by its null mean and variance (ties count one half). The score
    is the mean over cells, weighted by the held-out points in them. Under the null it is less spread than N(0, 1),
    because it averages cells.

    Args:
        generated, train, heldout: (n, d), (t, d), (h, d) samples or features; ``heldout`` must not be part of
        ``train``. cells: number of k-means cells. components: principal components to keep, at most min(t, d) are.
        least: cells with fewer generated or fewer held-out points are left out. seed: seed of k-means and of the
        randomised PCA. known: gives the :class:`Cells` of these settings, where they may be known already. device: where
        distances are computed; cells and components are found on the CPU.

    Raises ValueError in one line for wrong shapes, values that are not finite, or when no cell has enough points.
    """
    generated, train = checked_samples(generated, train, least=2)
    found = Cells.of(train, heldout, cells, components, seed, device) if known is None else known()
    projected = found.project(generated)
    distances = nearest(placed(projected, device), placed(found.train, device)).squared[:, 0]
    labels = found.cell(projected)
    score, weight = 0.0, 0
    for cell in range(cells):
        q, p = distances[labels == cell], found.distances[found.labels == cell]
        if min(len(q), len(p)) >= least:
            score += len(p) * _mann_whitney_z(q, p)
            weight += len(p)
    if weight == 0:
        raise ValueError(
            f"no cell has {least} generated and {least} held-out points; use fewer cells than {cells} or more points"
        )
    return score / weight


def _mann_whitney_z(q: np.ndarray, p: np.ndarray) -> float:
    from scipy.stats import mannwhitneyu

    n, m = len(q), len(p)
    statistic = float(mannwhitneyu(q, p, method="asymptotic").statistic)
    return (statistic - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def exact_copies(generated: np.ndarray, train: np.ndarray) -> float:
    """Fraction of generated samples that equal a training sample in every bit of every value (0 and -0 are equal).

    Raises ValueError like :func:`~fmbench.statistics.samples.checked_samples`.
    """
    generated, train = checked_samples(generated, train)
    known = {row.tobytes() for row in train + 0.0}
    return float(np.mean([row.tobytes() in known for row in generated + 0.0]))


def near_copies(generated: np.ndarray, train: np.ndarray, ratio: float = 1 / 3) -> float:
    """Fraction of generated samples that are :func:`copied`, in [0, 1]. Raises ValueError like it."""
    return float(copied(generated, train, ratio).mean())


def copied(generated: np.ndarray, train: np.ndarray, ratio: float = 1 / 3, device: str = CPU) -> np.ndarray:
    """Whether the nearest training point of every sample is ``ratio`` times nearer than the second nearest, (n,) of 0 and 1.

    The criterion ``d1 < d2 / 3`` of Yoon et al. (ICML 2023 workshop SPIGM), used by Gu et al. (arXiv:2310.02664). It is
    free of scale, and blind to copies of training samples that are themselves duplicated.
    Raises ValueError in one line for wrong shapes, values that are not finite, or a ratio outside (0, 1).
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must be between 0 and 1, got {ratio}")
    generated, train = _with_neighbours(generated, train)
    squared = nearest(placed(generated, device), placed(train, device), k=2).squared
    return (squared[:, 0] < ratio**2 * squared[:, 1]).astype(np.float64)


def _with_neighbours(generated: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    generated, train = checked_samples(generated, train)
    if len(train) < 2:
        raise ValueError(f"train needs at least 2 samples to have neighbours, got {len(train)}")
    return generated, train


def measure(evidence: Evidence) -> Estimate:
    """Authenticity against the reference (the training data, for finite data sets) on samples, normal interval over
    them.
    """
    at, real = evidence.device, evidence.reference
    known = lambda: evidence.real.once("own distances", lambda: own_distances(checked_samples(real)[0], at))  # noqa: E731
    values = authentic(evidence.samples[:QUADRATIC], real, known, at)
    return proportion_estimate(values, reference_sha256=evidence.reference_sha256)


def measure_ct(evidence: Evidence) -> Estimate:
    """C_T score of samples against all training and held-out data, in features where there are any; its own null is N(0, 1).

    The held-out data themselves, the ``data`` row, are cut into two halves, every second row each, and one is scored against the other.
    """
    generated, train = evidence.compared
    held = evidence.heldout_features if evidence.in_features else evidence.heldout
    at, key = evidence.device, "cells"
    if np.array_equal(evidence.samples, evidence.heldout):
        generated, held, key = generated[::2], held[1::2], "cells of half"
    generated = generated[:QUADRATIC]
    known = lambda: evidence.real.once(key, lambda: Cells.of(train, held, device=at))  # noqa: E731
    score = ct_score(generated, train, held, known=known, device=at)
    return Estimate(score, (score - Z95, score + Z95), len(generated), details=evidence.details)


def measure_copies(evidence: Evidence) -> Estimate:
    """Share of samples that are near copies of a training sample."""
    values = copied(evidence.samples[:QUADRATIC], evidence.reference, device=evidence.device)
    return proportion_estimate(values, reference_sha256=evidence.reference_sha256)
