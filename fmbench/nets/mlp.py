"""Multilayer perceptron on the concatenation of the state and the time, as in the 2-D experiments of 2302.00482."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmbench.nets.sizes import require_sizes
from fmbench.shapes import Labels, Points, Times

ACTIVATIONS = {"selu": nn.SELU, "silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` units, no normalisation; the default (3 x 64, SELU) is torchcfm's published toy network.

    Args:
        shape: shape of one sample; flattened inside.
        num_classes: classes for conditioning (an embedding is concatenated), 0 for none; index ``num_classes`` means "no label".
        width: units per hidden layer.
        depth: number of hidden layers.
        activation: one of selu, silu, relu, gelu.
    """

    def __init__(
        self, shape: tuple[int, ...], num_classes: int = 0, width: int = 64, depth: int = 3, activation: str = "selu"
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; allowed: {', '.join(ACTIVATIONS)}")
        require_sizes("MLP", width=width)
        require_sizes("MLP", least=0, depth=depth)
        self.num_classes = num_classes
        size = int(torch.Size(shape).numel())
        self.embedding = nn.Embedding(num_classes + 1, width) if num_classes else None
        inputs = size + 1 + (width if num_classes else 0)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, size))

    def forward(self, x: Points, t: Times, labels: Labels | None = None) -> Tensor:
        """Velocity (or whatever the method trains) at ``x`` of shape (batch, *shape) and ``t`` of shape (batch,)."""
        features = [x.flatten(1), t[:, None].to(x)]
        if self.embedding is not None:
            null = torch.full((len(x),), self.num_classes, device=x.device)
            features.append(self.embedding(null if labels is None else labels))
        return self.layers(torch.cat(features, dim=1)).reshape(x.shape)
