"""The Inception v3 of FID: the graph of 2015-12-05 that Heusel et al. (arXiv:1706.08500) took from TensorFlow.

It differs from later Inception v3 networks (Szegedy et al., arXiv:1512.00567): average pooling ignores padding, the last
block pools by maximum, and there are 1,008 classes. Names of modules are those of the published conversion, so its state
dict loads as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 299
CLASSES = 1008
WIDTHS = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "Mixed_7c"}
"""Feature widths that FID tools offer, with the stage after which they are pooled."""


class Conv(NamedTuple):
    """A convolution of a branch: its name, output channels, kernel and stride (padded to keep the size unless strided)."""

    name: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Step = tuple[Conv, ...]
"""Convolutions side by side whose outputs are concatenated."""
Branch = tuple[Step, ...]


class ConvBlock(nn.Module):
    """Convolution without bias, batch normalisation with eps 1e-3, ReLU."""

    def __init__(
        self, inputs: int, out: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, out, h', w')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def average_pool(x: Tensor) -> Tensor:
    """3 x 3 means that leave the padding out of the count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """3 x 3 maxima at stride 1."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def shrink(x: Tensor) -> Tensor:
    """3 x 3 maxima at stride 2, no padding."""
    return F.max_pool2d(x, 3, stride=2)


POOLS = {"average": average_pool, "max": max_pool, "shrink": shrink}


class Mixed(nn.Module):
    """Parallel branches and a pooled one, concatenated in that order.

    Args:
        inputs: input channels.
        branches: convolutions in order, by branch.
        pool: key of :data:`POOLS`.
        projection: channels of the 1 x 1 convolution after the pool, 0 for none.
    """

    def __init__(self, inputs: int, branches: tuple[Branch, ...], pool: str, projection: int = 0) -> None:
        super().__init__()
        self.branches, self.pool = branches, POOLS[pool]
        self.out = projection or inputs
        for branch in branches:
            channels = inputs
            for step in branch:
                for conv in step:
                    padding = (0, 0) if conv.stride > 1 else (conv.kernel[0] // 2, conv.kernel[1] // 2)
                    self.add_module(conv.name, ConvBlock(channels, conv.out, conv.kernel, conv.stride, padding))
                channels = sum(conv.out for conv in step)
            self.out += channels
        self.branch_pool = ConvBlock(inputs, projection, 1) if projection else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, out, h', w')."""
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = torch.cat([self.get_submodule(conv.name)(y) for conv in step], dim=1)
            outputs.append(y)
        return torch.cat([*outputs, self.branch_pool(self.pool(x))], dim=1)


def _chain(name: str, *convs: tuple[int, tuple[int, int], int]) -> Branch:
    """One convolution after the other, numbered."""
    return tuple((Conv(f"{name}_{i}", *conv),) for i, conv in enumerate(convs, 1))


def _fork(name: str) -> Step:
    return (Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1)))


ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def block_a(inputs: int, projection: int) -> Mixed:
    """35 x 35 block."""
    fives = _chain("branch5x5", (48, ONE, 1), (64, FIVE, 1))
    threes = _chain("branch3x3dbl", (64, ONE, 1), (96, THREE, 1), (96, THREE, 1))
    return Mixed(inputs, (((Conv("branch1x1", 64),),), fives, threes), "average", projection)


def block_b(inputs: int) -> Mixed:
    """35 x 35 to 17 x 17."""
    threes = _chain("branch3x3dbl", (64, ONE, 1), (96, THREE, 1), (96, THREE, 2))
    return Mixed(inputs, (((Conv("branch3x3", 384, THREE, 2),),), threes), "shrink")


def block_c(inputs: int, width: int) -> Mixed:
    """17 x 17 block with factorised 7 x 7 convolutions."""
    single = _chain("branch7x7", (width, ONE, 1), (width, ROW, 1), (192, COLUMN, 1))
    turns = ((width, COLUMN, 1), (width, ROW, 1), (width, COLUMN, 1), (192, ROW, 1))
    double = _chain("branch7x7dbl", (width, ONE, 1), *turns)
    return Mixed(inputs, (((Conv("branch1x1", 192),),), single, double), "average", 192)


def block_d(inputs: int) -> Mixed:
    """17 x 17 to 8 x 8."""
    threes = _chain("branch3x3", (192, ONE, 1), (320, THREE, 2))
    sevens = _chain("branch7x7x3", (192, ONE, 1), (192, ROW, 1), (192, COLUMN, 1), (192, THREE, 2))
    return Mixed(inputs, (threes, sevens), "shrink")


def block_e(inputs: int, pool: str) -> Mixed:
    """8 x 8 block with forked 3 x 3 convolutions."""
    threes = (*_chain("branch3x3", (384, ONE, 1)), _fork("branch3x3_2"))
    doubles = (*_chain("branch3x3dbl", (448, ONE, 1), (384, THREE, 1)), _fork("branch3x3dbl_3"))
    return Mixed(inputs, (((Conv("branch1x1", 320),),), threes, doubles), pool, 192)


class Inception(nn.Module):
    """Inception v3 of FID. The stages are children in the order of the forward pass, the classifier ``fc`` last."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBlock(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBlock(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBlock(32, 64, 3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = ConvBlock(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBlock(80, 192, 3)
        self.MaxPool_2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = block_a(192, 32)
        self.Mixed_5c = block_a(256, 64)
        self.Mixed_5d = block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b = block_c(768, 128)
        self.Mixed_6c = block_c(768, 160)
        self.Mixed_6d = block_c(768, 160)
        self.Mixed_6e = block_c(768, 192)
        self.Mixed_7a = block_d(768)
        self.Mixed_7b = block_e(1280, "average")
        self.Mixed_7c = block_e(2048, "max")
        self.fc = nn.Linear(2048, CLASSES)

    def features(self, x: Tensor, width: int = 2048) -> Tensor:
        """Pooled activations (n, width) of normalised images (n, 3, 299, 299).

        Raises ValueError for a width that is none of :data:`WIDTHS`.
        """
        if width not in WIDTHS:
            raise ValueError(f"Inception has no features of width {width}; it has {', '.join(map(str, WIDTHS))}")
        for name, stage in self.named_children():
            x = stage(x)
            if name == WIDTHS[width]:
                break
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, 2048) and logits without bias (n, 1008), the convention of the inception score, of normalised images."""
        features = self.features(x)
        return features, features @ self.fc.weight.T


def empty_inception() -> Inception:
    """An Inception in evaluation mode without storage: building it draws no random numbers."""
    with torch.device("meta"):
        return Inception().eval().requires_grad_(False)


def random_state(seed: int) -> dict[str, Tensor]:
    """A seeded state dict: He-normal weights, zero biases, batch normalisation that passes its input through."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, empty in empty_inception().state_dict().items():
        value = torch.zeros(empty.shape, dtype=empty.dtype)
        if name.endswith(("bn.weight", "running_var")):
            value.fill_(1)
        elif name.endswith("weight"):
            value = torch.randn(empty.shape, generator=draw) * (2 / empty[0].numel()) ** 0.5
        state[name] = value
    return state
