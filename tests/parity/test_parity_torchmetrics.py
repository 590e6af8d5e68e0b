"""Parity with torchmetrics 1.9: FID, KID and inception score as metric objects on given features, and their formulas.

- Frechet distance: the formula (eigenvalues of the product of the covariances, which is not symmetric) agrees to 1e-12
  with n > d and is low by 1e-7 with singular covariances, for the reason given in ``test_parity_clean_fid``. The object
  casts its float64 result to the dtype of the features: 6e-8 relative with float32 features, whatever the statistics.
- KID: averages over subsets from torch's global generator; on one full subset the same U-statistic.
- Inception score: shuffles with the global generator, cuts contiguous parts; ours interleaves parts, so on the same
  parts the means agree.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmbench.metrics.frechet import between
from fmbench.metrics.inception_score import inception_score
from fmbench.metrics.kernel import kernel_distance
from fmbench.statistics.moments import Moments

fid = pytest.importorskip("torchmetrics.image.fid")
kid = pytest.importorskip("torchmetrics.image.kid")
isc = pytest.importorskip("torchmetrics.image.inception")


class Features(torch.nn.Identity):
    """A feature extractor that is given the features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


@pytest.mark.parametrize(("n", "d"), [(200, 16), (200, 64), (2000, 16), (2000, 64), (2000, 256)])
def test_frechet_formula_of_regular_covariances(n, d, feature_pair, covariances, agreement) -> None:
    pair = feature_pair(n, d)
    theirs = fid._compute_fid(*map(torch.from_numpy, covariances(pair)))
    assert abs(agreement(float(theirs), pair)) < 1e-12


def test_frechet_formula_of_singular_covariances_is_low(feature_pair, covariances, agreement) -> None:
    pair = feature_pair(200, 256)
    theirs = fid._compute_fid(*map(torch.from_numpy, covariances(pair)))
    assert -1e-6 < agreement(float(theirs), pair) < -1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-7)])
def test_frechet_object_fed_in_batches(dtype, tolerance, feature_pair) -> None:
    pair = [torch.from_numpy(x).to(dtype) for x in feature_pair(2000, 64)]
    metric = fid.FrechetInceptionDistance(feature=Features(64))
    ours = []
    for features, real in zip(pair, (False, True), strict=True):
        parts = features.split(300)
        for part in parts:
            metric.update(part, real=real)
        ours.append(sum((Moments.of(p.numpy()) for p in parts[1:]), Moments.of(parts[0].numpy())))
    theirs = metric.compute()
    assert theirs.dtype == dtype
    assert float(theirs) == pytest.approx(between(*ours), rel=tolerance)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
@pytest.mark.parametrize(("degree", "gamma", "coef"), [(3, None, 1.0), (2, 0.7, 0.2)])
def test_kernel_object_on_one_subset_that_holds_everything(degree, gamma, coef, feature_pair) -> None:
    x, y = feature_pair(200, 64)
    kernel = {"degree": degree, "gamma": gamma, "coef": coef}
    metric = kid.KernelInceptionDistance(feature=Features(64), subsets=1, subset_size=200, **kernel)
    metric.update(torch.from_numpy(y), real=True)
    metric.update(torch.from_numpy(x), real=False)
    with torch.random.fork_rng(devices=[]):
        theirs, _ = metric.compute()
    assert float(theirs) == pytest.approx(kernel_distance(x, y, degree, gamma, coef), rel=1e-9)


@pytest.mark.filterwarnings("ignore:std", "ignore:Metric `InceptionScore`")
@pytest.mark.parametrize("splits", [1, 5])
def test_inception_score_of_the_same_parts(splits: int) -> None:
    n = 200
    logits = 3 * np.random.default_rng(2).normal(size=(n, 6))
    metric = isc.InceptionScore(feature=torch.nn.Identity(), splits=splits)
    metric.update(torch.from_numpy(logits))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(3)
        theirs, _ = metric.compute()
        torch.random.default_generator.manual_seed(3)
        order = torch.randperm(n).numpy()
    # Sample i of their part p becomes our sample i * splits + p.
    interleaved = logits[order.reshape(splits, -1).T.ravel()]
    assert inception_score(interleaved, splits) == pytest.approx(float(theirs), rel=1e-12)
