"""A small UNet for images of 8x8 to 32x32, in the DDPM++/ADM tradition: residual blocks, scale-shift time embedding, attention below."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbench.shapes import Labels, Points, Times


def time_features(t: Times, size: int) -> Tensor:
    """Sinusoidal features (batch, size) of times in [0, 1], frequencies geometric from 1 to 1000 radians."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), size // 2, device=t.device, dtype=torch.float32))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice; the embedding scales and shifts the second norm; the last convolution starts at zero."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(batch, inputs, h, w), (batch, embedding) -> (batch, outputs, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """Self-attention over the pixels, residual, output projection started at zero."""

    def __init__(self, channels: int, groups: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.project(mixed)


class UNet(nn.Module):
    """UNet with ``len(multipliers)`` resolutions, each half the one before.

    Args:
        shape: (channels, height, width) of one image; height and width divisible by patch * 2^(levels-1).
        num_classes: classes for conditioning, 0 for none; index ``num_classes`` means "no label".
        patch: side of the pixel-unshuffle stem; 2 quarters the cost of every layer, at a quarter of the resolution.
        channels: width of the first level.
        multipliers: width of each level as a multiple of ``channels``.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: feature map heights at which attention is used.
        groups: groups of every GroupNorm.
        heads: attention heads.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int = 0,
        patch: int = 1,
        channels: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (4,),
        groups: int = 8,
        heads: int = 2,
    ) -> None:
        super().__init__()
        factor = patch * 2 ** (len(multipliers) - 1)
        if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
            raise ValueError(
                f"a UNet of {len(multipliers)} levels and patch {patch} needs images divisible by {factor}, got {tuple(shape)}"
            )
        self.num_classes = num_classes
        self.channels = channels
        size = 4 * channels
        self.embed = nn.Sequential(nn.Linear(2 * channels, size), nn.SiLU(), nn.Linear(size, size))
        self.label_embedding = nn.Embedding(num_classes + 1, size) if num_classes else None
        pixels = shape[0] * patch**2
        self.stem = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(pixels, channels, 3, padding=1))

        def attend(width: int, height: int) -> nn.Module:
            return Attention(width, groups, heads) if height in attention else nn.Identity()

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, height, skips = channels, shape[1] // patch, [channels]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                out = channels * multiplier
                self.down.append(nn.ModuleList([ResidualBlock(width, out, size, groups), attend(out, height)]))
                width = out
                skips.append(width)
            if level < len(multipliers) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                height //= 2
                skips.append(width)
        self.middle = ResidualBlock(width, width, size, groups)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                out = channels * multiplier
                self.up.append(
                    nn.ModuleList([ResidualBlock(width + skips.pop(), out, size, groups), attend(out, height)])
                )
                width = out
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)))
                height *= 2
        last = nn.Conv2d(width, pixels, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), last, nn.PixelShuffle(patch))

    def forward(self, x: Points, t: Times, labels: Labels | None = None) -> Tensor:
        """Velocity (or whatever the method trains) at ``x`` of shape (batch, channels, height, width), ``t`` of shape (batch,)."""
        embedding = self.embed(time_features(t, 2 * self.channels).to(x.dtype))
        if self.label_embedding is not None:
            null = torch.full((len(x),), self.num_classes, device=x.device)
            embedding = embedding + self.label_embedding(null if labels is None else labels)
        embedding = F.silu(embedding)
        h = self.stem(x)
        skips = [h]
        for stage in self.down:
            h = self._run(stage, h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for stage in self.up:
            if isinstance(stage, nn.ModuleList):
                h = torch.cat([h, skips.pop()], dim=1)
            h = self._run(stage, h, embedding)
        return self.head(h)

    @staticmethod
    def _run(stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if isinstance(stage, nn.ModuleList):
            block, attention = stage
            return attention(block(h, embedding))
        return stage(h)
