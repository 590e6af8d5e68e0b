"""The preconditioning of EDM (2206.00364, equation 7): a denoiser around a network whose input and target have unit variance.

D(y; sigma) = c_skip y + c_out F(c_in y, ...),   c_skip = sd^2 / (sigma^2 + sd^2),   c_out = sigma sd / sqrt(sigma^2 + sd^2),
c_in = 1 / sqrt(sigma^2 + sd^2)
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fmbench.shapes import Points, Times, like


def scales(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in at noise levels of any shape, for data of deviation ``sigma_data``."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), total.rsqrt()


def preconditioned(network: Callable[[Points], Points], y: Points, sigma: Times, sigma_data: float) -> Points:
    """D(y; sigma), (batch, *shape), of a raw network F that is asked at c_in y; ``sigma`` of shape (batch,)."""
    skip, out, scale = (like(c.to(y), y) for c in scales(sigma, sigma_data))
    return skip * y + out * network(scale * y)
