"""Products with the spatial Jacobian ``J = dv/dx`` of a velocity field, and its trace, for samples of any shape.

A velocity treats the rows of a batch independently, so one pass with a vector for every row gives that product for all of them at once;
nothing is looped over samples and no (D, D) matrix is kept. All products at a point come from the graph of one evaluation where that has
them (:func:`from_one_graph`): a forward-mode pass costs six evaluations, a backward pass two. A field whose graph is not the whole of it
is evaluated again for every product (:func:`by_passes`). Attention is computed by its plain formula inside, because torch's fused kernels
have no forward-mode derivative and no second one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fmbench.noise import generator
from fmbench.shapes import Points, Times, Velocity, squared_norm

STEP = 1e-3
"""Step of differences, over the size of the points."""
ACCURACY = 2e-3
"""By how much products may differ from what they are compared with, over the largest."""
SMOOTH = 0.75
"""Share of the rows whose differences must agree: the others may cross a kink of the field."""
STREAM = 0x1AC0
"""Key of the directions that :func:`linearisation` tries."""
CHUNK = 32
"""Basis vectors pushed through the network at once in forward mode; bounds its memory."""


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


@dataclass(frozen=True)
class Products:
    """A field at some points: its values and the products with its Jacobian there, all of shape (batch, *shape).

    Attributes:
        v: ``v(x, t)``.
        push: ``u -> J u``.
        pull: ``w -> J^T w``.
    """

    v: Points
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


Linearise: TypeAlias = Callable[[Velocity, Points, Times], Products]
"""How the products at some points are found: :func:`from_one_graph` or :func:`by_passes`."""


def by_passes(velocity: Velocity, x: Points, t: Times) -> Products:
    """Products by a forward-mode or a reverse-mode pass each, through a fresh evaluation."""
    with torch.no_grad():
        v = velocity(x, t)
    push = lambda u: jacobian_product(velocity, x, t, u)[1]  # noqa: E731
    return Products(v, push, lambda w: transposed_product(velocity, x, t, w)[1])


def from_one_graph(velocity: Velocity, x: Points, t: Times) -> Products:
    """Products by backward passes through one evaluation, which is kept.

    ``J^T w`` is linear in ``w``, so the backward pass of the backward pass is ``J u`` at any ``w``. Raises RuntimeError or ValueError for
    a field without gradient; the products raise RuntimeError for one that has no second.
    """
    point = x.detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        v = velocity(point, t)
    twice: list[tuple[Tensor, Tensor]] = []

    def push(u: Tensor) -> Tensor:
        if not twice:
            w = torch.zeros_like(v, requires_grad=True)
            with torch.enable_grad():
                twice.append((w, torch.autograd.grad(v, point, w, create_graph=True)[0]))
        w, pulled = twice[0]
        return torch.autograd.grad(pulled, w, u, retain_graph=True)[0]

    return Products(v.detach(), push, lambda w: torch.autograd.grad(v, point, w, retain_graph=True)[0])


def _differences(velocity: Velocity, x: Points, t: Times, u: Tensor) -> Tensor:
    """``J u`` by central differences."""
    step = STEP * float(x.abs().max()) / float(u.abs().max())
    with torch.no_grad():
        return (velocity(x + step * u, t) - velocity(x - step * u, t)) / (2 * step)


def linearisation(velocity: Velocity, x: Points, t: Times, second: bool = False) -> Linearise:
    """The faster way to the products of a field that is right for it, found out at one point for a whole trajectory.

    Parts of a field may switch gradients off, or have a backward pass that keeps no graph: products from its graph then lack them, in
    silence. So they are compared, in a random direction, with differences of the field, and where these are too coarse with a pass in
    forward mode, which imports torch's compiler.

    Args:
        velocity: v(x, t), rows of a batch independent.
        x, t: (batch, *shape) and (batch,), any point of the trajectory.
        second: whether ``push`` is needed, a second derivative of the graph, and not only ``pull``.
    """
    random = generator(STREAM)
    u, w = (torch.randn(x.shape, generator=random, dtype=torch.float64).to(x) for _ in range(2))
    try:
        at = from_one_graph(velocity, x, t)
        pushed, pulled = at.push(u) if second else None, at.pull(w)

        def agreeing(true: Tensor) -> float:
            """Share of the rows whose products are those of ``true``."""
            apart = (_dot(pulled, u) - _dot(w, true)).abs() / squared_norm(w).sqrt()
            if pushed is not None:
                apart = torch.maximum(apart, squared_norm(pushed - true).sqrt())
            return float((apart <= ACCURACY * squared_norm(true).max().sqrt()).double().mean())

        if agreeing(_differences(velocity, x, t, u)) >= SMOOTH:
            return from_one_graph
        return from_one_graph if agreeing(jacobian_product(velocity, x, t, u)[1]) == 1 else by_passes
    except (RuntimeError, ValueError):
        return by_passes


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(dim=1)


def has_derivative(velocity: Velocity, x: Points, t: Times) -> bool:
    """Whether any derivative of a field comes out at some points: from its graph or, where gradients are off, in forward mode.

    Raises RuntimeError or ValueError where neither can be computed.
    """
    ones = torch.ones_like(x)
    with suppress(RuntimeError, ValueError):
        if bool(from_one_graph(velocity, x, t).pull(ones).any()):
            return True
    return bool(jacobian_product(velocity, x, t, ones)[1].any())


def exact_divergence(
    velocity: Velocity, x: Points, t: Times, chunk: int = CHUNK, linearise: Linearise | None = None
) -> tuple[Points, Tensor]:
    """``v(x, t)`` and ``div v = tr J`` of every row, (batch,) float64, by one product per dimension.

    Args:
        velocity: the field, rows of a batch independent.
        x, t: (batch, *shape) and (batch,).
        chunk: dimensions handled at once in forward mode.
        linearise: how products are found; found out when not given.
    """
    linearise = linearise or linearisation(velocity, x, t)
    if linearise is by_passes:
        return _forward_divergence(velocity, x, t, chunk)
    at = linearise(velocity, x, t)
    trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    unit = torch.zeros_like(x)
    for k in range(x[0].numel()):
        unit.flatten(1)[:, k] = 1
        trace += at.pull(unit).flatten(1)[:, k].double()
        unit.flatten(1)[:, k] = 0
    return at.v, trace


def _forward_divergence(velocity: Velocity, x: Points, t: Times, chunk: int) -> tuple[Points, Tensor]:
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


def hutchinson_divergence(
    velocity: Velocity, x: Points, t: Times, probes: Tensor, linearise: Linearise | None = None
) -> tuple[Points, Tensor]:
    """``v(x, t)`` and the mean of ``e^T J e`` over probes, (batch,) float64 (Hutchinson 1989; 1810.01367 for flows).

    Unbiased for ``tr J`` when the entries of ``e`` are independent with mean 0 and variance 1; with entries +-1 its variance is
    ``2 sum_{i != j} S_ij^2`` over the symmetric part S of J, so a diagonal J has none.

    Args:
        velocity: the field, rows of a batch independent.
        x, t: (batch, *shape) and (batch,).
        probes: (probes, batch, *shape), every sample its own.
        linearise: how products are found; found out when not given.
    """
    linearise = linearise or linearisation(velocity, x, t)
    at = linearise(velocity, x, t)
    product = at.push if linearise is by_passes else at.pull
    trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for probe in probes:
        trace += (product(probe) * probe).flatten(1).double().sum(dim=1)
    return at.v, trace / len(probes)
