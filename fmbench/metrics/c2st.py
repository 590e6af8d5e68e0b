"""Classifier two-sample test: how well a classifier tells generated from real samples it has not been trained on.

Mean held-out accuracy (Lopez-Paz & Oquab, arXiv:1610.06545): 0.5 when the two cannot be told apart, 1 when always. The
network learns the difference that matters most, so nothing about the data has to be assumed; in exchange the value
depends on the classifier and grows with the number of samples. Below 0.5 means near copies on both sides of a fold
(memorisation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fmbench.metrics.evidence import Evidence
from fmbench.records.result import Estimate
from fmbench.statistics.intervals import effective_trials, wilson_interval
from fmbench.statistics.samples import checked_samples

MOST = 2000
"""Samples of each side that ``measure`` uses."""
FOLDS = 5
LEAST = 12
"""Fewest samples a side: with fewer the tenth of a training fold that early stopping looks at may hold one class only."""


def mlp_classifier(dim: int, seed: int) -> Any:
    """Two hidden ReLU layers of ``10 dim`` (at least 32, at most 256) units on standardised inputs, early stopping,
    seeded.
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    width = min(max(10 * dim, 32), 256)
    network = MLPClassifier((width, width), max_iter=200, early_stopping=True, n_iter_no_change=15, random_state=seed)
    return make_pipeline(StandardScaler(), network)


def held_out_folds(n: int, seed: int, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out indices of every fold, into n samples of one side followed by n of the other."""
    from sklearn.model_selection import StratifiedKFold

    labels = np.repeat([0, 1], n)
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))


def held_out_correct(
    x: np.ndarray,
    y: np.ndarray,
    seed: int = 0,
    folds: int = FOLDS,
    classifier: Callable[[int, int], Any] = mlp_classifier,
) -> np.ndarray:
    """Whether every sample is recognised by the classifier of the fold that did not see it, (2 min(n, m),) of 0 and 1.

    Args:
        x, y: (n, d) and (m, d) samples; the longer is cut to the shorter so that guessing scores 0.5.
        seed: seed of folds and classifier.
        folds: number of cross-validation folds, at least 2.
        classifier: (dim, seed) -> unfitted scikit-learn classifier.

    Raises ValueError in one line for wrong shapes, values that are not finite, fewer than :data:`LEAST` samples on a side, or folds
    outside [2, min(n, m)].
    """
    from sklearn.model_selection import cross_val_predict

    x, y = checked_samples(x, y, least=LEAST)
    n = min(len(x), len(y))
    if not 2 <= folds <= n:
        raise ValueError(f"folds must be between 2 and {n}, the number of samples on the smaller side, got {folds}")
    points, labels = np.concatenate([x[:n], y[:n]]), np.repeat([0, 1], n)
    split = held_out_folds(n, seed, folds)
    predicted = np.asarray(cross_val_predict(classifier(points.shape[1], seed), points, labels, cv=split))
    return (predicted == labels).astype(np.float64)


def c2st(x: np.ndarray, y: np.ndarray, seed: int = 0, folds: int = FOLDS) -> float:
    """Held-out accuracy of the default classifier. Raises ValueError like :func:`held_out_correct`."""
    return float(held_out_correct(x, y, seed, folds).mean())


def accuracy_estimate(correct: np.ndarray, held_out: Sequence[np.ndarray], **details: Any) -> Estimate:
    """Accuracy of :func:`held_out_correct` with an interval that covers training as well as testing.

    Folds share training data, so their accuracies depend on each other: the variance is the corrected one of Nadeau &
    Bengio (Machine Learning 52, 2003), ``(1 / J + n_test / n_train) s^2`` with s^2 the spread over the J folds and J - 1
    degrees of freedom. It goes into a Wilson interval of at most as many trials as there are samples.

    Args:
        correct: (2 n,) of 0 and 1.
        held_out: indices of the samples that every fold held out.
    """
    share, count = float(correct.mean()), len(held_out)
    spread = float(np.var([correct[rows].mean() for rows in held_out], ddof=1))
    trials = effective_trials(share, (1 / count + 1 / (count - 1)) * spread, count - 1, len(correct))
    return Estimate(share, wilson_interval(share, trials), len(correct), details=details)


def measure(evidence: Evidence) -> Estimate:
    """Classifier two-sample accuracy on the first 2,000 samples (features, for images) of each side, interval as in
    :func:`accuracy_estimate`; the seed of folds and training is the evaluation seed.

    Measured coverage of the expected accuracy, Gaussians in 2-D: 97 % at n = 300. Conservative when nothing can be told
    apart (a plain binomial interval covers 98 % already). Liberal at n = 100, 87 %, where training itself fails now and
    then in all folds alike (binomial: 78 %).
    """
    x, y = (points[:MOST] for points in evidence.compared)
    held_out = [rows for _, rows in held_out_folds(min(len(x), len(y)), evidence.seed, FOLDS)]
    return accuracy_estimate(held_out_correct(x, y, evidence.seed, FOLDS), held_out, **evidence.details)
