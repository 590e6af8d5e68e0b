"""Products with the spatial Jacobian ``J = dv/dx`` of a velocity field, and its trace, for samples of any shape.

A velocity treats the rows of a batch independently, so one forward-mode pass with the same tangent for every row gives that product
for all of them at once; nothing is looped over samples and no (D, D) matrix is kept. Attention is computed by its plain formula inside,
because torch's fused kernels have no forward-mode derivative.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fmbench.shapes import Points, Times, Velocity

CHUNK = 32
"""Basis vectors pushed through the network at once by :func:`exact_divergence`; bounds its memory."""


@cache
def _load_forward_mode() -> None:
    """Let torch compile its forward-mode formulas (once per process), without its warning about how it does that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))


def jacobian_product(velocity: Velocity, x: Points, t: Times, tangent: Tensor) -> tuple[Points, Tensor]:
    """``v(x, t)`` and ``J(x, t) tangent``, all of shape (batch, *shape); forward mode, about two evaluations."""
    _load_forward_mode()
    with sdpa_kernel(SDPBackend.MATH):
        return jvp(lambda z: velocity(z, t), (x,), (tangent,))  # type: ignore[return-value]


def transposed_product(velocity: Velocity, x: Points, t: Times, cotangent: Tensor) -> tuple[Points, Tensor]:
    """``v(x, t)`` and ``J(x, t)^T cotangent``, all of shape (batch, *shape); reverse mode, about three evaluations.

    The velocity must not switch gradients off inside: the product would then be zero.
    """
    with sdpa_kernel(SDPBackend.MATH):
        v, pull = vjp(lambda z: velocity(z, t), x)  # type: ignore[misc]
        return v, pull(cotangent)[0]


def exact_divergence(velocity: Velocity, x: Points, t: Times, chunk: int = CHUNK) -> tuple[Points, Tensor]:
    """``v(x, t)`` and ``div v = tr J`` of every row, (batch,) float64, by one forward-mode pass per dimension.

    Args:
        velocity: the field, rows of a batch independent.
        x, t: (batch, *shape) and (batch,).
        chunk: dimensions handled at once.
    """
    dim = x[0].numel()

    def diagonal(unit: Tensor) -> Tensor:
        row = unit.reshape(1, *x.shape[1:])
        product = jacobian_product(velocity, x, t, row.expand_as(x))[1]
        return (product * row).flatten(1).sum(dim=1)

    trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for start in range(0, dim, chunk):
        units = torch.zeros((min(chunk, dim - start), dim), dtype=x.dtype, device=x.device)
        units.diagonal(start).fill_(1)
        trace += vmap(diagonal)(units).double().sum(dim=0)
    return velocity(x, t), trace


def hutchinson_divergence(velocity: Velocity, x: Points, t: Times, probes: Tensor) -> tuple[Points, Tensor]:
    """``v(x, t)`` and the mean of ``e^T J e`` over probes, (batch,) float64 (Hutchinson 1989; 1810.01367 for flows).

    Unbiased for ``tr J`` when the entries of ``e`` are independent with mean 0 and variance 1; with entries +-1 its variance is
    ``2 sum_{i != j} S_ij^2`` over the symmetric part S of J, so a diagonal J has none.

    Args:
        velocity: the field, rows of a batch independent.
        x, t: (batch, *shape) and (batch,).
        probes: (probes, batch, *shape), every sample its own.
    """
    trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    v = x
    for probe in probes:
        v, product = jacobian_product(velocity, x, t, probe)
        trace += (product * probe).flatten(1).double().sum(dim=1)
    return v, trace / len(probes)
