"""Where work on points is done: as NumPy arrays on the CPU, or as float64 tensors on another device.

A function on pairs of points is written once. It takes either kind, and gets by these few names what the two do not call the same. Of
sums over many pairs the last digits depend on the device; the points are float64 everywhere, so no others do.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

CPU = "cpu"
Array = TypeVar("Array", np.ndarray, Tensor)
"""Points or numbers of either kind."""


def placed(points: np.ndarray, device: str) -> Any:
    """Points for work on a device: the array itself on the CPU, elsewhere a float64 tensor."""
    return points if device == CPU else torch.tensor(points, dtype=torch.float64, device=device)


def like(values: np.ndarray, x: Any) -> Any:
    """Values where ``x`` is: the array itself beside an array, else a tensor of their dtype on the device of ``x``."""
    return values if isinstance(x, np.ndarray) else torch.tensor(values, device=x.device)


def host(values: Any) -> np.ndarray:
    """Values as an array, brought back where they are elsewhere."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def namespace(x: Any) -> ModuleType:
    """What has the functions for ``x``: numpy or torch."""
    return np if isinstance(x, np.ndarray) else torch


def zeros(shape: int | tuple[int, ...], x: Any) -> Any:
    """Zeros, float64, where ``x`` is."""
    return np.zeros(shape) if isinstance(x, np.ndarray) else torch.zeros(shape, dtype=torch.float64, device=x.device)


def fill_diagonal(matrix: Any, value: float, first: int = 0) -> None:
    """Set column ``first + i`` of every row i to a value, in place."""
    if isinstance(matrix, np.ndarray):
        rows = np.arange(len(matrix))
        matrix[rows, first + rows] = value
    else:
        matrix.diagonal(first).fill_(value)
