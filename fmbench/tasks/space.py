"""The sample space of a task: conversion of samples to rows of numbers, the needs of metrics that it satisfies, and a display as text.

Points are float32 tensors (n, *shape) in every space; a token is stored as its integer. What a space provides determines which metrics
apply. Other spaces are subclasses, which a task names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fmbench.records.names import check_name
from fmbench.shapes import Points

SHADES = " .:-=+*#%@"
"""Characters from black to white."""
SHOWN = 4
"""Number of samples, and of values of a sample, that are shown."""


@dataclass(frozen=True)
class Space(ABC):
    """Samples of one shape.

    Attributes:
        kind: its name in results.
        provides: names of needs (:mod:`fmbench.records.needs`) that its samples satisfy: ``coordinates`` where distances mean something.
        shape: of one sample.
    """

    kind: ClassVar[str]
    provides: ClassVar[frozenset[str]] = frozenset()
    shape: tuple[int, ...]

    def __init_subclass__(cls) -> None:
        if isinstance(kind := getattr(cls, "kind", None), str):
            check_name(kind, "a kind of task")

    def flatten(self, points: Points) -> np.ndarray:
        """Points (n, *shape) as rows (n, d) of what metrics compute in: float64 unless overridden."""
        return points.flatten(1).double().numpy()

    @abstractmethod
    def describe(self) -> str:
        """The space in a few words."""

    @abstractmethod
    def show(self, points: Points) -> Iterator[str]:
        """Every sample as text, of one or several lines."""


class VectorSpace(Space):
    """Vectors of a few dimensions."""

    kind = "vector"
    provides = frozenset({"vector", "coordinates"})

    def describe(self) -> str:
        """Its dimension."""
        return f"vectors in {int(torch.Size(self.shape).numel())} dimensions"

    def show(self, points: Points) -> Iterator[str]:
        """Coordinates, the first :data:`SHOWN` of many."""
        for row in points.flatten(1):
            more = ", ..." if len(row) > SHOWN else ""
            yield f"({', '.join(f'{x:.3g}' for x in row[:SHOWN].tolist())}{more})"


class ImageSpace(Space):
    """Images (channels, height, width) in [-1, 1]."""

    kind = "image"
    provides = frozenset({"image", "coordinates"})

    def flatten(self, points: Points) -> np.ndarray:
        """Rows of pixels, float32: metrics convert what they use."""
        return points.flatten(1).numpy()

    def describe(self) -> str:
        """Its size and colours."""
        channels, height, width = self.shape
        return f"{height} x {width} images, {'grey' if channels == 1 else f'{channels} channels'}"

    def show(self, points: Points) -> Iterator[str]:
        """A character for every pixel, by its brightness."""
        for image in points.mean(dim=1).clamp(-1, 1):
            shades = ((image + 1) / 2 * (len(SHADES) - 1)).round().int().tolist()
            yield "\n".join("".join(SHADES[level] for level in row) for row in shades)


SPACES = {space.kind: space for space in (VectorSpace, ImageSpace)}


def space_of(kind: str, shape: tuple[int, ...]) -> Space:
    """The space of a kind that fmbench knows. Raises ValueError in one line for another kind."""
    if kind not in SPACES:
        raise ValueError(
            f"a task of kind {kind!r} needs a space of its own (space=, of fmbench.tasks.space.Space); known without: {', '.join(SPACES)}"
        )
    return SPACES[kind](shape)
