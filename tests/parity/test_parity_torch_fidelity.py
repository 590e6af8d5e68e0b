"""Parity with torch-fidelity 0.4: the functions that turn features into FID, KID, ISC and precision / recall.

- Frechet distance: complex eigenvalues of the product of the covariances. 1e-12 with n > d, low by 1e-7 when singular
  (``test_parity_clean_fid`` says why). It takes the mean of float32 features in float32: 5e-7 on 2,000 samples.
- KID: subsets from a seeded generator; the same subsets give the same number, the full subset the U-statistic.
- Inception score: contiguous parts where ours are interleaved.
- Precision and recall: closed balls (``<=``), k = 3 by default; ours with ``closed=True``. Density and coverage: none.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmbench.metrics.inception_score import inception_score
from fmbench.metrics.kernel import kernel_distance
from fmbench.metrics.mmd import gaussian_mmd_squared
from fmbench.metrics.prdc import prdc

fid = pytest.importorskip("torch_fidelity.metric_fid")
isc = pytest.importorskip("torch_fidelity.metric_isc")
kid = pytest.importorskip("torch_fidelity.metric_kid")
prc = pytest.importorskip("torch_fidelity.metric_prc")


def frechet(pair: tuple[np.ndarray, np.ndarray], dtype: torch.dtype = torch.float64) -> float:
    statistics = [fid.fid_features_to_statistics(torch.from_numpy(x).to(dtype)) for x in pair]
    return fid.fid_statistics_to_metric(*statistics, verbose=False)[fid.KEY_METRIC_FID]


@pytest.mark.parametrize(("n", "d"), [(200, 16), (200, 64), (2000, 16), (2000, 64), (2000, 256)])
def test_frechet_distance_of_regular_covariances(n, d, feature_pair, agreement) -> None:
    pair = feature_pair(n, d)
    assert abs(agreement(frechet(pair), pair)) < 1e-12


def test_frechet_distance_of_singular_covariances_is_low(feature_pair, agreement) -> None:
    pair = feature_pair(200, 256)
    assert -1e-6 < agreement(frechet(pair), pair) < -1e-9


def test_frechet_distance_of_float32_features_has_the_error_of_a_float32_mean(feature_pair, agreement) -> None:
    pair = feature_pair(2000, 64)
    single = tuple(x.astype(np.float32) for x in pair)
    # Ours sums the same float32 features in float64.
    assert abs(agreement(frechet(pair), single)) < 1e-7
    assert 1e-8 < abs(agreement(frechet(pair, torch.float32), single)) < 1e-5


def test_kernel_distance_on_the_same_subsets(feature_pair) -> None:
    x, y = feature_pair(200, 64)
    settings = {"kid_subsets": 7, "kid_subset_size": 50, "rng_seed": 2020, "verbose": False}
    theirs = kid.kid_features_to_metric(*map(torch.from_numpy, (x, y)), **settings)
    draws = np.random.RandomState(2020)
    subsets = [[a[draws.choice(200, 50, replace=False)] for a in (x, y)] for _ in range(7)]
    values = [kernel_distance(*pair) for pair in subsets]
    assert theirs[kid.KEY_METRIC_KID_MEAN] == pytest.approx(np.mean(values), rel=1e-9)
    assert theirs[kid.KEY_METRIC_KID_STD] == pytest.approx(np.std(values), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (200, 256), (1000, 64)])
def test_kernel_distance_on_everything(n, d, feature_pair) -> None:
    pair = [torch.from_numpy(x) for x in feature_pair(n, d)]
    theirs = kid.kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=n, verbose=False)
    assert theirs[kid.KEY_METRIC_KID_MEAN] == pytest.approx(kernel_distance(*feature_pair(n, d)), rel=1e-8)


def test_gaussian_kernel(feature_pair) -> None:
    x, y = feature_pair(200, 16)
    theirs = kid.kernel_mmd(x, y, kid_kernel="rbf", kid_kernel_rbf_sigma=0.8)
    assert theirs == pytest.approx(gaussian_mmd_squared(x, y, bandwidth=0.8), rel=1e-9)


@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_of_the_same_parts(splits: int) -> None:
    logits = 3 * np.random.default_rng(2).normal(size=(200, 6))
    theirs = isc.isc_features_to_metric(torch.from_numpy(logits), splits, shuffle=False)
    interleaved = logits.reshape(splits, -1, 6).swapaxes(0, 1).reshape(200, 6)
    assert inception_score(interleaved, splits) == pytest.approx(theirs[isc.KEY_METRIC_ISC_MEAN], rel=1e-12)


@pytest.mark.parametrize("save_memory", [False, True])
@pytest.mark.parametrize(("n", "m", "k"), [(300, 300, 3), (300, 200, 5), (150, 400, 1)])
def test_precision_and_recall(n, m, k, save_memory, feature_pair) -> None:
    generated, real = feature_pair(n, 16)[0], feature_pair(m, 16)[1]
    settings = {"prc_neighborhood": k, "prc_batch_size": 64, "save_cpu_ram": save_memory, "verbose": False}
    theirs = prc.prc_features_to_metric(torch.from_numpy(generated), torch.from_numpy(real), **settings)
    ours = prdc(generated, real, k, closed=True)
    # It averages indicators in float32.
    assert ours.precision == pytest.approx(theirs[prc.KEY_METRIC_PRECISION], rel=1e-6)
    assert ours.recall == pytest.approx(theirs[prc.KEY_METRIC_RECALL], rel=1e-6)
    assert 0.0 < ours.precision < 1.0


def test_ties_count_as_inside() -> None:
    # On an integer lattice distances are exact in every implementation, and many lie exactly on a radius.
    rng = np.random.default_rng(0)
    generated, real = rng.integers(0, 12, size=(2, 120, 2)).astype(np.float64)
    generated[::2] += 5.0
    theirs = prc.prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real), prc_neighborhood=3, prc_batch_size=1000, verbose=False
    )
    closed, opened = prdc(generated, real, 3, closed=True), prdc(generated, real, 3)
    assert closed.precision == pytest.approx(theirs[prc.KEY_METRIC_PRECISION], rel=1e-6)
    assert closed.recall == pytest.approx(theirs[prc.KEY_METRIC_RECALL], rel=1e-6)
    assert opened.precision < closed.precision
    assert opened.recall < closed.recall
