"""Rotated products of 1-D distributions: Gaussian mixtures in 2, 16 and 64 dimensions with *everything* known exactly.

The first axes carry a two-mode mixture each, the others a Gaussian, and one fixed rotation hides the axes. A product keeps optimal transport
separable, so W2^2 to N(0, I) is a sum of 1-D integrals; it is also a Gaussian mixture with ``2^modes`` components, so density, score and
marginal velocity are closed forms.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from fmbench.noise import generator
from fmbench.tasks.base import StandardNormal, Task
from fmbench.tasks.mixture import GaussianMixture
from fmbench.tasks.toys import CLOSED_NET, CLOSED_TRAIN

# One mode axis: (weight, mean, std) of its two Gaussians. Unequal weights, so that a missed mode shows in the weights error.
MODE_AXES = (
    ((0.3, -2.5, 0.4), (0.7, 1.5, 0.6)),
    ((0.5, -2.0, 0.3), (0.5, 2.0, 0.3)),
    ((0.6, -1.5, 0.5), (0.4, 2.5, 0.5)),
    ((0.2, -3.0, 0.5), (0.8, 1.0, 0.5)),
)


def axis_w2_squared(axis: tuple[tuple[float, float, float], ...], points: int = 200_001) -> float:
    """``int_0^1 (F^-1(u) - Phi^-1(u))^2 du`` between N(0,1) and a 1-D mixture, by quadrature along the monotone map.

    Substituting x = F^-1(u) gives ``int (x - Phi^-1(F(x)))^2 f(x) dx``, smooth and rapidly decaying.
    """
    from scipy.special import log_ndtr, logsumexp, ndtri_exp

    low = min(mean - 12 * std for _, mean, std in axis)
    high = max(mean + 12 * std for _, mean, std in axis)
    x = np.linspace(low, high, points)
    logs = [math.log(weight) + log_ndtr((x - mean) / std) for weight, mean, std in axis]
    upper = [math.log(weight) + log_ndtr(-(x - mean) / std) for weight, mean, std in axis]
    # The tail with the smaller probability keeps all digits of the quantile.
    lower_tail, upper_tail = (np.asarray(logsumexp(terms, axis=0)) for terms in (logs, upper))
    quantile = np.where(
        lower_tail < upper_tail, ndtri_exp(np.minimum(lower_tail, -1e-17)), -ndtri_exp(np.minimum(upper_tail, -1e-17))
    )
    density = sum(w * np.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)) for w, m, s in axis)
    return float(np.trapezoid((x - quantile) ** 2 * density, x))


def product_mixture(dim: int, modes: int, stds: np.ndarray) -> GaussianMixture:
    """The product of the first ``modes`` mode axes and Gaussians of the given ``stds`` (dim - modes), rotated by a fixed matrix."""
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator(2302, dim), dtype=torch.float64))[0]
    means, scales, weights = [], [], []
    for choice in itertools.product(*MODE_AXES[:modes]):
        weights.append(math.prod(weight for weight, _, _ in choice))
        means.append([mean for _, mean, _ in choice] + [0.0] * (dim - modes))
        scales.append([std for _, _, std in choice] + stds.tolist())
    as_tensor = lambda rows: torch.tensor(rows, dtype=torch.float64)  # noqa: E731
    return GaussianMixture(as_tensor(means), as_tensor(scales), as_tensor(weights), rotation)


def _task(dim: int, modes: int, width: int) -> Task:
    stds = np.geomspace(0.3, 1.5, dim - modes) if dim > modes else np.empty(0)
    mixture = product_mixture(dim, modes, stds)
    w2 = sum(axis_w2_squared(axis) for axis in MODE_AXES[:modes]) + float(((1 - stds) ** 2).sum())
    return Task(
        name=f"mixture-{dim}d",
        version=1,
        summary=f"N(0,I) to a rotated product mixture, {2**modes} modes in {dim} dimensions, W2 exact",
        kind="vector",
        shape=(dim,),
        source=StandardNormal((dim,)),
        target=mixture,
        heldout=mixture,
        net={**CLOSED_NET, "width": width},
        train=CLOSED_TRAIN,
        source_mixture=GaussianMixture(torch.zeros(1, dim), torch.tensor(1.0)),
        target_mixture=mixture,
        w2_squared=(w2, 0.0),
    )


def mixture_2d() -> Task:
    """Four modes in two dimensions, no Gaussian axes."""
    return _task(dim=2, modes=2, width=64)


def mixture_16d() -> Task:
    """Eight modes on three axes; thirteen Gaussian axes with std from 0.3 to 1.5 (geometric)."""
    return _task(dim=16, modes=3, width=128)


def mixture_64d() -> Task:
    """Sixteen modes on four axes; sixty Gaussian axes with std from 0.3 to 1.5 (geometric)."""
    return _task(dim=64, modes=4, width=128)
