"""Metrics on features: Frechet distance, its moments, kernel distance, Gaussian MMD, precision to coverage."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from case import Case, Sizes, features

from fmbench.metrics.frechet import frechet_distance
from fmbench.metrics.kernel import kernel_distance
from fmbench.metrics.mmd import gaussian_mmd_squared
from fmbench.metrics.prdc import prdc
from fmbench.statistics.moments import Moments

Pair = tuple[np.ndarray, np.ndarray]

BATCH = 1000
BANDWIDTH = 1.0


def quiet(call: Callable[[], Any]) -> Any:
    """A peer's result without what it prints and warns about."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def _moments(n: int, d: int) -> tuple[np.ndarray, ...]:
    return tuple(a for x in features(n, d) for a in (x.mean(axis=0), np.cov(x, rowvar=False)))


def _scipy_fid(moments: tuple[np.ndarray, ...]) -> float:
    from scipy.linalg import sqrtm

    mu1, cov1, mu2, cov2 = moments
    cross = np.trace(quiet(lambda: sqrtm(cov1 @ cov2)).real)
    return float(((mu1 - mu2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def _clean_fid(moments: tuple[np.ndarray, ...]) -> float:
    from cleanfid.fid import frechet_distance as theirs

    return float(quiet(lambda: theirs(*moments)))


def _torchmetrics_fid(moments: tuple[np.ndarray, ...]) -> float:
    import torch
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(*map(torch.from_numpy, moments)))


def _torch_fidelity_fid(moments: tuple[np.ndarray, ...]) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    first, second = ({"mu": moments[k], "sigma": moments[k + 1]} for k in (0, 2))
    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def _streamed(pair: Pair) -> float:
    total = Moments.of(pair[0][:BATCH])
    for start in range(BATCH, len(pair[0]), BATCH):
        total = total + Moments.of(pair[0][start : start + BATCH])
    return float(np.linalg.norm(total.cov))


def _torch_fidelity_kid(pair: Pair) -> float:
    import torch
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    settings = {"kid_subsets": 1, "kid_subset_size": len(pair[0]), "verbose": False}
    return kid_features_to_metric(*map(torch.from_numpy, pair), **settings)[KEY_METRIC_KID_MEAN]


def _torchmetrics_kid(pair: Pair) -> float:
    import torch
    from torchmetrics.image.kid import poly_mmd

    return float(poly_mmd(*map(torch.from_numpy, pair)))


def _torch_fidelity_mmd(pair: Pair) -> float:
    from torch_fidelity.metric_kid import kernel_mmd

    return float(kernel_mmd(*pair, kid_kernel="rbf", kid_kernel_rbf_sigma=BANDWIDTH))


def _prdc_package(pair: Pair) -> float:
    from prdc import compute_prdc

    return float(quiet(lambda: compute_prdc(pair[1], pair[0], nearest_k=5))["density"])


KERNEL_SIZES = {"small": Sizes((250, 500, 1000), (64, 128, 256)), "medium": Sizes((500, 1000, 2000), (64, 256, 1024))}

FEATURE_CASES = {
    "frechet": Case(
        _moments,
        lambda moments: frechet_distance(*moments),
        {
            "scipy sqrtm": _scipy_fid,
            "clean-fid": _clean_fid,
            "torchmetrics": _torchmetrics_fid,
            "torch-fidelity": _torch_fidelity_fid,
        },
        {"small": Sizes((600,), (64, 128, 256)), "medium": Sizes((2000,), (64, 128, 256, 512, 1024))},
    ),
    "moments": Case(
        features,
        _streamed,
        {"np.cov": lambda pair: float(np.linalg.norm(np.cov(pair[0], rowvar=False)))},
        {
            "small": Sizes((2000, 4000, 8000), (32, 64, 128)),
            "medium": Sizes((5000, 10_000, 20_000), (128, 256, 512)),
        },
    ),
    "kid": Case(
        features,
        lambda pair: kernel_distance(*pair),
        {"torch-fidelity": _torch_fidelity_kid, "torchmetrics": _torchmetrics_kid},
        KERNEL_SIZES,
    ),
    "mmd": Case(
        features,
        lambda pair: gaussian_mmd_squared(*pair, bandwidth=BANDWIDTH),
        {"torch-fidelity": _torch_fidelity_mmd},
        KERNEL_SIZES,
    ),
    "prdc": Case(features, lambda pair: prdc(*pair).density, {"prdc": _prdc_package}, KERNEL_SIZES),
}
