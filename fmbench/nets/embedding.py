"""Embedding of times and labels, shared by all networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fmbench.shapes import Condition, Labels, Points, Times

FAST, SLOW = 1000.0, 16.0
"""Highest frequency of times in radians: of a network of one time, and of one of two, which is differentiated by them: noise of
the derivative grows with it, until nothing is learned."""


def time_features(t: Times, size: int, fastest: float = FAST) -> Tensor:
    """Sinusoidal features (batch, size) of times in [0, 1], frequencies geometric from 1 to ``fastest`` radians."""
    frequencies = torch.exp(torch.linspace(0, math.log(fastest), size // 2, device=t.device, dtype=torch.float32))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def labels_or_null(x: Points, cond: Condition | None, num_classes: int) -> Labels:
    """The labels of a batch, (batch,); the null index ``num_classes`` ("no label") for every sample when there are none."""
    if cond is None or cond.labels is None:
        return torch.full((len(x),), num_classes, device=x.device)
    return cond.labels


def span(t: Times, r: Times | None, second_time: bool) -> Times | None:
    """The time span ``t - r`` of a map, (batch,); zeros for a velocity. None for a network of one time.

    Raises ValueError when a network of one time is given a second.
    """
    if not second_time:
        if r is not None:
            raise ValueError("this network takes one time; build it with second_time = true for a map between two")
        return None
    return torch.zeros_like(t) if r is None else t - r
