"""Parity with clean-fid 0.1.35: ``frechet_distance`` (scipy sqrtm) and ``kernel_distance`` on the same features.

Frechet distance, relative difference to ours: below 1e-12 with n > d. With n <= d both covariances are singular, and
sqrtm of their product finds, for eigenvalues that are exactly zero, round-off of size eps times the largest; its square
root, 1e-8 each, is added to the trace. clean-fid then comes out low by 1e-7; the singular-value form of the distance,
computed beside it, sides with ours.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import scipy.linalg

from fmbench.metrics.kernel import kernel_distance

clean_fid = pytest.importorskip("cleanfid.fid")

needs_disp = pytest.mark.skipif(
    "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters,
    reason="clean-fid 0.1.35 calls scipy's sqrtm(disp=False), which SciPy 1.18 has removed: TypeError in clean-fid itself",
)


@needs_disp
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("n", "d"), [(200, 16), (200, 64), (2000, 16), (2000, 64), (2000, 256)])
def test_frechet_distance_of_regular_covariances(n, d, feature_pair, covariances, agreement) -> None:
    pair = feature_pair(n, d)
    assert abs(agreement(clean_fid.frechet_distance(*covariances(pair)), pair)) < 1e-12


@needs_disp
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frechet_distance_of_singular_covariances_is_low_in_clean_fid(feature_pair, covariances, agreement) -> None:
    pair = feature_pair(200, 256)
    x, y = ((a - a.mean(axis=0)) / np.sqrt(len(a) - 1) for a in pair)
    shift = pair[0].mean(axis=0) - pair[1].mean(axis=0)
    exact = shift @ shift + (x**2).sum() + (y**2).sum() - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    assert abs(agreement(float(exact), pair)) < 1e-11
    assert -1e-6 < agreement(clean_fid.frechet_distance(*covariances(pair)), pair) < -1e-9


def test_kernel_distance_on_one_subset_that_holds_everything(feature_pair) -> None:
    # Its subsets come from NumPy's global generator; one subset of everything is the same set in any order.
    x, y = feature_pair(200, 64)
    theirs = clean_fid.kernel_distance(y, x, num_subsets=1, max_subset_size=len(x))
    assert theirs == pytest.approx(kernel_distance(x, y), rel=1e-9)
