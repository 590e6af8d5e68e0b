"""What every conditional network does with its time and its labels before its first layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fmbench.shapes import Labels, Points, Times


def time_features(t: Times, size: int) -> Tensor:
    """Sinusoidal features (batch, size) of times in [0, 1], frequencies geometric from 1 to 1000 radians."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), size // 2, device=t.device, dtype=torch.float32))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def labels_or_null(x: Points, labels: Labels | None, num_classes: int) -> Labels:
    """The labels of a batch, (batch,); the null index ``num_classes`` ("no label") for every sample when there are none."""
    return torch.full((len(x),), num_classes, device=x.device) if labels is None else labels
