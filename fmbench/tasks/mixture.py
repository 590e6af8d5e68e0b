"""Gaussian mixtures: sampling, density, and the exact velocity of the flow between two of them under independent coupling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fmbench.shapes import Condition, Points, Times


class GaussianMixture:
    """``sum_k w_k N(Q m_k, Q diag(s_k^2) Q^T)`` with a common orthogonal frame ``Q``.

    Args:
        means: (K, D), in the frame.
        stds: (K, D) or anything that broadcasts to it; zero makes a component a point mass.
        weights: (K,), positive; normalised here. Uniform by default.
        frame: orthogonal (D, D); identity by default.

    Raises ValueError for negative weights or standard deviations.
    """

    def __init__(
        self, means: Tensor, stds: Tensor | float, weights: Tensor | None = None, frame: Tensor | None = None
    ) -> None:
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand_as(self.means)
        count = len(self.means)
        weights = torch.ones(count) if weights is None else torch.as_tensor(weights)
        if not bool((weights > 0).all()) or not bool((self.stds >= 0).all()):
            raise ValueError("mixture weights must be positive and standard deviations non-negative")
        self.weights = (weights / weights.sum()).double()
        self.frame = None if frame is None else torch.as_tensor(frame, dtype=torch.float64)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.means.shape[1]

    @property
    def separation(self) -> float:
        """Smallest distance of two component means over the largest standard deviation of the two; infinite for one component."""
        if len(self.means) == 1:
            return math.inf
        first, second = torch.triu_indices(len(self.means), len(self.means), offset=1)
        widest = self.stds.amax(dim=1)
        distance = torch.nn.functional.pdist(self.means)
        return float((distance / torch.maximum(widest[first], widest[second])).min())

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """``n`` independent points, (n, D) float32."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn((n, self.dim), generator=generator, dtype=torch.float64)
        points = self.means[component] + self.stds[component] * noise
        return (points if self.frame is None else points @ self.frame.T).float()

    def log_prob(self, x: Points) -> Tensor:
        """Log density in nats, (n,) float64."""
        y = x.double() if self.frame is None else x.double() @ self.frame
        z = (y[:, None] - self.means) / self.stds
        log_normal = -0.5 * z.square().sum(-1) - self.stds.log().sum(-1) - 0.5 * self.dim * math.log(2 * math.pi)
        return torch.logsumexp(self.weights.log() + log_normal, dim=1)


class MixtureVelocity(nn.Module):
    """Exact marginal velocity ``E[X1 - X0 | X_t = x]`` for independent mixtures ``X0``, ``X1`` and ``X_t = (1-t) X0 + t X1``.

    Every pair (k, j) of components gives a Gaussian of mean ``(1-t) a_k + t b_j`` and variance ``(1-t)^2 s_k^2 + t^2 r_j^2``,
    and inside it the velocity is linear in x; the pairs are weighted by their responsibilities. Computed in float64.

    Raises ValueError when the two mixtures use different frames and the source is not isotropic (then no common frame is diagonal).
    """

    start: Tensor
    start_std: Tensor
    stop: Tensor
    stop_std: Tensor
    log_weight: Tensor
    frame: Tensor | None

    def __init__(self, source: GaussianMixture, target: GaussianMixture) -> None:
        super().__init__()
        means, stds = source.means, source.stds
        if source.frame is not None:
            raise ValueError("the source mixture must have the identity frame")
        if target.frame is not None:
            if not bool((stds == stds[:, :1]).all()):
                raise ValueError("with a rotated target the source components must be isotropic")
            means = means @ target.frame
        pairs = len(means) * len(target.means)

        def outer(left: Tensor, right: Tensor, combine: str) -> Tensor:
            product = left[:, None] * right[None] if combine == "*" else right[None] - left[:, None]
            return product.reshape(pairs, *product.shape[2:])

        ones = torch.ones_like(target.means)
        self.register_buffer("start", outer(means, ones, "*"), persistent=False)
        self.register_buffer("start_std", outer(stds, ones, "*"), persistent=False)
        self.register_buffer("stop", outer(torch.ones_like(means), target.means, "*"), persistent=False)
        self.register_buffer("stop_std", outer(torch.ones_like(means), target.stds, "*"), persistent=False)
        self.register_buffer("log_weight", outer(source.weights, target.weights, "*").log(), persistent=False)
        self.register_buffer("frame", target.frame, persistent=False)

    def forward(self, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Points:
        """Velocity at ``x`` of shape (batch, *shape); ``r`` and ``cond`` are ignored (the marginal flow has none)."""
        if len(x) and bool((t == t[0]).all()):
            return self._at(x, float(t[0]))
        velocity = torch.empty_like(x)
        for time in t.unique():
            rows = t == time
            velocity[rows] = self._at(x[rows], float(time))
        return velocity

    def _at(self, x: Points, t: float) -> Points:
        y = x.flatten(1).double()
        if self.frame is not None:
            y = y @ self.frame
        mean = (1 - t) * self.start + t * self.stop
        # The floor only matters at t = 1 for point masses, where the velocity is a limit.
        variance = ((1 - t) ** 2 * self.start_std**2 + t**2 * self.stop_std**2).clamp_min(1e-12)
        precision = 1 / variance
        slope = (t * self.stop_std**2 - (1 - t) * self.start_std**2) * precision
        offset = self.stop - self.start - slope * mean
        bias = self.log_weight - 0.5 * ((mean.square() * precision).sum(1) + variance.log().sum(1))
        logits = bias - 0.5 * (y.square() @ precision.T) + y @ (mean * precision).T
        responsibility = torch.softmax(logits, dim=1)
        velocity = responsibility @ offset + y * (responsibility @ slope)
        if self.frame is not None:
            velocity = velocity @ self.frame.T
        return velocity.reshape(x.shape).to(x.dtype)
