"""Multilayer perceptron on the concatenation of the state and the time, as in the 2-D experiments of 2302.00482."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.nets.embedding import labels_or_null, span
from fmbench.nets.sizes import require_sizes
from fmbench.shapes import Condition, Points, Times

ACTIVATIONS = {"selu": nn.SELU, "silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` units, no normalisation; the default (3 x 64, SELU) is torchcfm's published toy network.

    Args:
        shape: shape of one sample; flattened inside.
        num_classes: classes for conditioning (an embedding is concatenated), 0 for none; index ``num_classes`` means "no label".
        width: units per hidden layer.
        depth: number of hidden layers.
        activation: one of selu, silu, relu, gelu.
        second_time: whether the network also takes ``r``, the other end of a map between two times.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        width: int = 64,
        depth: int = 3,
        activation: str = "selu",
        second_time: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; allowed: {', '.join(ACTIVATIONS)}")
        require_sizes("MLP", width=width)
        require_sizes("MLP", least=0, depth=depth)
        self.num_classes, self.second_time = num_classes, second_time
        size = int(torch.Size(shape).numel())
        self.embedding = nn.Embedding(num_classes + 1, width) if num_classes else None
        inputs = size + 1 + second_time + (width if num_classes else 0)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, size))

    def forward(self, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Tensor:
        """Velocity (or whatever the method trains) at ``x`` of shape (batch, *shape) and ``t`` of shape (batch,), looking from ``r``."""
        features = [x.flatten(1), t[:, None].to(x)]
        if (ahead := span(t, r, self.second_time)) is not None:
            features.append(ahead[:, None].to(x))
        if self.embedding is not None:
            features.append(self.embedding(labels_or_null(x, cond, self.num_classes)))
        return self.layers(torch.cat(features, dim=1)).reshape(x.shape)
