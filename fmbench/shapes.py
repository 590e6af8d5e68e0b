"""Notation, fixed once for the whole project.

Time runs from the source to the data: ``t = 0`` is the source (noise), ``t = 1`` is the data. ``x0`` is a source point, ``x1`` a data
point, ``x_t`` a point in between and ``v(x, t) = dx/dt`` the velocity. ``Z0`` and ``Z1`` are the two ends of a *generated*
trajectory. Samples are float32 tensors of shape ``(batch, *shape)``; image tasks live in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Points: TypeAlias = Tensor
"""(batch, *shape), float32."""
Times: TypeAlias = Tensor
"""(batch,), in [0, 1]."""
Labels: TypeAlias = Tensor
"""(batch,), int64 class indices."""
Velocity: TypeAlias = Callable[[Points, Times], Points]
"""v(x, t) = dx/dt."""


def like(t: Tensor, x: Tensor) -> Tensor:
    """Reshape ``t`` of shape (batch,) to (batch, 1, ..., 1) so that it broadcasts against ``x`` of shape (batch, *shape)."""
    return t.reshape(-1, *([1] * (x.ndim - 1)))


def squared_norm(x: Tensor) -> Tensor:
    """Squared Euclidean norm of every sample: (batch, *shape) -> (batch,). A sum over dimensions, never a mean."""
    return x.flatten(1).square().sum(dim=1)
