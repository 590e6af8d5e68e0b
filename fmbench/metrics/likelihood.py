"""Log-likelihood of a velocity field by the instantaneous change of variables (1806.07366, theorem 1), and bits per dimension.

    log p1(x1) = log p0(x0) - int_0^1 div v(x_t, t) dt,   x_t the trajectory that ends in x1

The trajectory is followed backward from t = 1 to t = 0 with RK4 on a cosine grid, and the integral is RK4's own quadrature of the
divergence along it. The divergence is the exact trace (D products with the Jacobian) or Hutchinson's estimate with Rademacher probes that stay
fixed along a trajectory (1810.01367); the second is unbiased for the log-likelihood, so its noise is covered by the interval over samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmbench.metrics.evidence import Evidence
from fmbench.metrics.jacobian import exact_divergence, hutchinson_divergence, linearisation
from fmbench.noise import generator as seeded
from fmbench.records.result import Estimate
from fmbench.shapes import Points, Times, Velocity
from fmbench.solvers.base import cosine_grid
from fmbench.solvers.rk4 import RK4
from fmbench.statistics.intervals import enclosing, mean_estimate
from fmbench.tasks.base import LogDensity, StandardNormal

TRACES = ("exact", "hutchinson")
STREAM = 0xB175
"""Key of dequantisation noise and probes of :func:`measure_bits`."""


def standard_normal_log_density(x: Points) -> Tensor:
    """Log density of N(0, I) in nats, (batch,), for points of any shape."""
    return StandardNormal(tuple(x.shape[1:])).log_prob(x)


def rademacher(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent entries +1 or -1 with equal probability, float32, drawn on the CPU so that a seed means the same everywhere."""
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.float32) * 2 - 1


def _divergence(
    velocity: Velocity, x1: Points, trace: str, probes: int, generator: torch.Generator | None
) -> Callable[[Points, Times], tuple[Points, Tensor]]:
    if trace not in TRACES:
        raise ValueError(f"trace must be one of {', '.join(TRACES)}, got {trace!r}")
    how = linearisation(velocity, x1, x1.new_ones(len(x1)))
    if trace == "exact":
        return lambda x, t: exact_divergence(velocity, x, t, linearise=how)
    if generator is None or probes < 1:
        raise ValueError(f"the hutchinson trace needs a generator and at least one probe, got {generator} and {probes}")
    drawn = rademacher((probes, *x1.shape), generator).to(x1)
    return lambda x, t: hutchinson_divergence(velocity, x, t, drawn, how)


@torch.no_grad()
def log_likelihood(
    velocity: Velocity,
    x1: Points,
    steps: int,
    source_log_density: LogDensity = standard_normal_log_density,
    trace: str = "exact",
    probes: int = 1,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Log density of the model at the data points ``x1`` in nats, (n,) float64.

    Args:
        velocity: v(x, t), rows of a batch independent; evaluated in the dtype of ``x1``, while state and integral are float64.
        x1: (n, *shape) data points of any shape.
        steps: RK4 steps on :func:`~fmbench.solvers.base.cosine_grid` from t = 1 to t = 0.
        source_log_density: log p0, standard normal by default.
        trace: "exact" (cost grows with the dimension) or "hutchinson".
        probes: Rademacher probes per sample of the Hutchinson trace.
        generator: draws the probes; unused by the exact trace.

    Raises ValueError for an unknown trace, missing generator, fewer than one probe or step, points or results that are not numbers.
    """
    if not bool(x1.isfinite().all()):
        bad = int((~x1.isfinite()).flatten(1).any(dim=1).sum())
        raise ValueError(
            f"{bad} of {len(x1)} data points have NaN or infinite values; drop them or say why they are there"
        )
    divergence = _divergence(velocity, x1, trace, probes, generator)

    def augmented(state: Tensor, t: Times) -> Tensor:
        v, rate = divergence(state[:, :-1].reshape(x1.shape).to(x1.dtype), t.to(x1.dtype))
        return torch.cat([v.flatten(1).double(), rate[:, None]], dim=1)

    start = torch.nn.functional.pad(x1.flatten(1).double(), (0, 1))
    end = RK4().solve(augmented, start, cosine_grid(steps).flip(0))
    # Backward in time the last component gathers -int_0^1 div v dt.
    values = source_log_density(end[:, :-1].reshape(x1.shape)).double() + end[:, -1]
    if bool(values.isnan().any()):
        bad = int(values.isnan().sum())
        raise ValueError(
            f"the backward solve diverged for {bad} of {len(x1)} points with {steps} steps; use more steps"
        )
    return values.cpu().numpy()


def dequantise(images: Tensor, levels: int, lo: float, hi: float, generator: torch.Generator) -> Points:
    """Uniform dequantisation: grey level k goes to a uniform point of the k-th of ``levels`` equal bins of [lo, hi], float32.

    ``lo`` and ``hi`` are the outer edges of the bins. With (-1, 1) the bins fill the range and level k moves off ``2k / (levels-1) - 1``
    by up to half a bin, which is how 256 levels are usually scored; with ``1 / (levels - 1)`` added on both sides each bin is centred on it.

    Args:
        images: whole numbers from 0 to levels - 1 of any shape and dtype.
        levels: number of grey levels, at least 2.
        lo, hi: edges, lo < hi.
        generator: draws on the CPU.

    Raises ValueError for values that are not grey levels, fewer than two levels or an empty range.
    """
    _checked_bins(levels, lo, hi)
    k = images.double()
    if not bool(((k == k.round()) & (k >= 0) & (k < levels)).all()):
        raise ValueError(
            f"images must hold whole grey levels from 0 to {levels - 1}, got values from {k.min():g} to {k.max():g}; "
            "undo their scaling first"
        )
    offset = torch.rand(k.shape, generator=generator, dtype=torch.float64).to(k.device)
    return (lo + (hi - lo) / levels * (k + offset)).float()


def _checked_bins(levels: int, lo: float, hi: float) -> None:
    if levels < 2 or not lo < hi:
        raise ValueError(f"grey levels need levels >= 2 and lo < hi, got levels={levels}, lo={lo}, hi={hi}")


def bits_per_dimension(nll_nats: np.ndarray, dim: int, levels: int, lo: float, hi: float) -> np.ndarray:
    """Bits per dimension of the discrete image from the negative log density of its dequantised version, elementwise.

    ``nll / (D ln 2) - log2((hi - lo) / levels)``: the density times the volume of one bin bounds the probability of the image from below
    on average (1511.01844), so the mean is an upper bound of the code length. For 256 levels on [-1, 1] the constant is 7.

    Args:
        nll_nats: negative log densities in nats.
        dim: dimensions of one sample.
        levels, lo, hi: as in :func:`dequantise`.

    Raises ValueError for fewer than one dimension or two levels, or an empty range.
    """
    _checked_bins(levels, lo, hi)
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    return np.asarray(nll_nats, dtype=np.float64) / (dim * math.log(2)) - math.log2((hi - lo) / levels)


def nll_estimate(log_densities: np.ndarray, **details: Any) -> Estimate:
    """Mean negative log-likelihood in nats with its 95 % interval over samples, from :func:`log_likelihood`."""
    return mean_estimate(-np.asarray(log_densities, dtype=np.float64), **details)


def measure_nll(evidence: Evidence) -> Estimate:
    """Exact negative log-likelihood of fresh real points, nats per sample; that of the true density stands in the details where known."""
    known = evidence.data_log_density
    floor = {} if known is None else {"floor": float(-known.mean())}
    if evidence.has("exact_density"):
        return nll_estimate(evidence.log_density(evidence.data).cpu().numpy(), trace="none", **floor)
    values = log_likelihood(evidence.data_velocity, evidence.data, evidence.steps, evidence.source_density)
    return nll_estimate(values, trace="exact", steps=evidence.steps, **floor)


def _dequantised(data: Points, levels: int, random: torch.Generator) -> tuple[Points, float]:
    """Images spread over bins centred on their grey levels, and half the width of a bin."""
    half = 1 / (levels - 1)
    pixels = ((data.double() + 1) / (2 * half)).round()
    return dequantise(pixels, levels, -1 - half, 1 + half, random).to(data), half


def measure_bits(evidence: Evidence) -> Estimate:
    """Bits per dimension of held-out images, dequantised in bins centred on the grey levels.

    From the flow's own density where it is exact, else with one Hutchinson probe per image.
    """
    random, levels, steps = seeded(evidence.seed, STREAM), evidence.levels, evidence.steps
    images, half = _dequantised(evidence.data, levels, random)
    how: dict[str, Any] = {"trace": "none"}
    if evidence.has("exact_density"):
        values = evidence.log_density(images).cpu().numpy()
    else:
        density = evidence.source_density
        values = log_likelihood(evidence.data_velocity, images, steps, density, "hutchinson", 1, random)
        how = {"trace": "hutchinson", "probes": 1, "steps": steps}
    bits = bits_per_dimension(-values, images[0].numel(), levels, -1 - half, 1 + half)
    estimate = mean_estimate(bits, **how, levels=levels)
    if "steps" not in how or estimate.ci is None or steps < 4:
        return estimate
    error = _quadrature_error(evidence, images, bits, levels, half)
    widened = enclosing(float(bits.mean()), estimate.ci[0] - error, estimate.ci[1] + error)
    return replace(estimate, ci=widened, details={**estimate.details, "quadrature_error": error})


def _quadrature_error(evidence: Evidence, images: Points, bits: np.ndarray, levels: int, half: float) -> float:
    """How far the mean moves with half the steps, the same images and the same probes: most of it is the error of the coarser solve."""
    random = seeded(evidence.seed, STREAM)
    _dequantised(evidence.data, levels, random)  # takes the numbers that come before the probes
    values = log_likelihood(
        evidence.data_velocity, images, evidence.steps // 2, evidence.source_density, "hutchinson", 1, random
    )
    coarse = bits_per_dimension(-values, images[0].numel(), levels, -1 - half, 1 + half)
    return abs(float(coarse.mean() - bits.mean()))
