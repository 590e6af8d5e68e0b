"""Notation, fixed once for the whole project.

Time runs from the source to the data: ``t = 0`` is the source (noise), ``t = 1`` is the data. ``x0`` is a source point, ``x1`` a data
point, ``x_t`` a point in between and ``v(x, t) = dx/dt`` the velocity. ``Z0`` and ``Z1`` are the two ends of a *generated*
trajectory. Samples are float32 tensors of shape ``(batch, *shape)``; image tasks live in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fmbench.transfers import sent

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


@dataclass(frozen=True)
class Condition:
    """The condition of samples, one row per sample; a part that a task does not have is None.

    Attributes:
        labels: class indices, (batch,).
        context: what a sample belongs to, (batch, ...): a population, a sentence.
        measurement: what is known of a sample, (batch, ...): an inverse problem.

    Raises ValueError when every part is None, or when the parts differ in their number of rows.
    """

    labels: Labels | None = None
    context: Tensor | None = None
    measurement: Tensor | None = None

    def __post_init__(self) -> None:
        rows = {name: len(part) for name, part in self.parts.items()}
        if not rows:
            raise ValueError("a condition needs labels, a context or a measurement; pass None for no condition")
        if len(set(rows.values())) > 1:
            raise ValueError(f"the parts of a condition must have the same number of rows, got {rows}")

    @property
    def parts(self) -> dict[str, Tensor]:
        """The parts that are not None, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in named.items() if part is not None}

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def rows(self, rows: slice | Tensor) -> Condition:
        """The condition of some of the samples."""
        return Condition(**{name: part[rows] for name, part in self.parts.items()})

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        return Condition(**{name: sent(part, device) for name, part in self.parts.items()})


def as_condition(given: Any) -> Condition | None:
    """A condition from one, from class labels alone, or from None. Raises ValueError for anything else."""
    if given is None or isinstance(given, Condition):
        return given
    if isinstance(given, Tensor) and given.ndim == 1 and not given.is_floating_point() and not given.is_complex():
        return Condition(labels=given)
    what = (
        f"a tensor of {given.dtype}, shape {tuple(given.shape)}"
        if isinstance(given, Tensor)
        else f"a {type(given).__name__}"
    )
    raise ValueError(f"a condition must be a Condition or class labels of shape (batch,), got {what}")
