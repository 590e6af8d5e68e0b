"""A UNet for images of 8x8 to 64x64, in the DDPM++/ADM tradition: residual blocks, scale-shift time embedding, attention below."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbench.nets.attention import attention
from fmbench.nets.embedding import FAST, SLOW, labels_or_null, span, time_features
from fmbench.nets.sizes import require_probability, require_sizes
from fmbench.shapes import Condition, Points, Times

MOST_LEVELS = 16
"""Resolutions of a UNet: each halves the one before."""


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice; the last convolution starts at zero.

    The embedding scales and shifts the second norm (``scale_shift``), or is added before it as in DDPM.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, scale_shift: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs if scale_shift else outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(batch, inputs, h, w), (batch, embedding) -> (batch, outputs, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        signal = self.modulation(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = signal.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + signal)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


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
        mixed = attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.project(mixed)


@dataclass(frozen=True)
class Parts:
    """Settings shared by the blocks of one UNet; attributes as in :class:`UNet`, ``embedding`` is the width of the time embedding."""

    embedding: int
    groups: int
    attention: tuple[int, ...]
    heads: int
    head_channels: int
    scale_shift: bool
    dropout: float

    def residual(self, inputs: int, outputs: int) -> ResidualBlock:
        """A residual block. Raises ValueError when the groups do not divide the width."""
        if outputs % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a UNet width of {outputs}; choose groups that do")
        return ResidualBlock(inputs, outputs, self.embedding, self.groups, self.scale_shift, self.dropout)

    def attend(self, width: int) -> Attention:
        """An attention layer. Raises ValueError when the heads do not divide the width."""
        heads = width // self.head_channels if self.head_channels else self.heads
        if width % (self.head_channels or self.heads):
            what = f"heads of {self.head_channels} channels" if self.head_channels else f"{self.heads} heads"
            raise ValueError(f"{what} do not divide a UNet width of {width}; choose heads or head_channels that do")
        return Attention(width, self.groups, heads)

    def stage(self, inputs: int, outputs: int, height: int) -> nn.ModuleList:
        """A residual block, with attention behind it at the heights that have it."""
        block = self.residual(inputs, outputs)
        return nn.ModuleList([block, self.attend(outputs) if height in self.attention else nn.Identity()])


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
        head_channels: width of one attention head; when positive it replaces ``heads``.
        scale_shift: whether time and label scale and shift the second norm of a block, or are added before it.
        dropout: probability before the last convolution of every block, in training only.
        adm: the layout of Dhariwal & Nichol (2105.05233): block, attention, block in the middle; ``channels`` time features instead of
            twice as many; and every layer that starts at zero has a zero bias too, so that the network starts at 0.
        second_time: whether the network also takes ``r``, the other end of a map between two times; both times then have slow features,
            up to 16 radians instead of 1000, because such a map is differentiated by them.

    Raises ValueError for sizes, groups or heads that do not divide.
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
        head_channels: int = 0,
        scale_shift: bool = True,
        dropout: float = 0.0,
        adm: bool = False,
        second_time: bool = False,
    ) -> None:
        super().__init__()
        require_sizes("UNet", patch=patch, channels=channels, multipliers=multipliers, groups=groups, heads=heads)
        require_sizes("UNet", least=0, blocks=blocks, head_channels=head_channels)
        require_probability("UNet", dropout=dropout)
        if len(multipliers) > MOST_LEVELS:
            raise ValueError(f"UNet multipliers must be at most {MOST_LEVELS}, got {len(multipliers)}")
        if adm and channels % 2:
            raise ValueError(f"UNet channels must be even, as many as time has features, got {channels}")
        factor = patch * 2 ** (len(multipliers) - 1)
        if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
            raise ValueError(
                f"a UNet of {len(multipliers)} levels and patch {patch} needs images divisible by {factor}, got {tuple(shape)}"
            )
        self.num_classes, self.dropout = num_classes, dropout
        self.time_size = channels if adm else 2 * channels
        size = 4 * channels
        # Initial weights are drawn in this order; a recipe's seed stands for them, so the order never changes.
        self.embed = nn.Sequential(nn.Linear(self.time_size, size), nn.SiLU(), nn.Linear(size, size))
        self.label_embedding = nn.Embedding(num_classes + 1, size) if num_classes else None
        pixels = shape[0] * patch**2
        self.stem = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(pixels, channels, 3, padding=1))
        parts = Parts(size, groups, tuple(attention), heads, head_channels, scale_shift, dropout)
        widths = [channels * multiplier for multiplier in multipliers]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips = self._descend(parts, widths, blocks, shape[1] // patch)
        width = widths[-1]
        self.middle: nn.Module = parts.residual(width, width)
        if adm:
            self.middle = nn.ModuleList([self.middle, parts.attend(width), parts.residual(width, width)])
        self._ascend(parts, widths, blocks, shape[1] // factor, skips)
        last = nn.Conv2d(widths[0], pixels, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.GroupNorm(groups, widths[0]), nn.SiLU(), last, nn.PixelShuffle(patch))
        if adm:
            self._zero_biases(last)
        # After all others, whose initial weights a recipe's seed stands for.
        self.fastest = SLOW if second_time else FAST
        self.embed_span = None
        if second_time:
            self.embed_span = nn.Sequential(nn.Linear(self.time_size, size), nn.SiLU(), nn.Linear(size, size))

    def _descend(self, parts: Parts, widths: list[int], blocks: int, height: int) -> list[int]:
        """Build the downward path; returns the widths of its skip connections."""
        width = int(self.stem[1].out_channels)  # type: ignore[arg-type]
        skips = [width]
        for level, out in enumerate(widths):
            for _ in range(blocks):
                self.down.append(parts.stage(width, out, height))
                width = out
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                height //= 2
                skips.append(width)
        return skips

    def _ascend(self, parts: Parts, widths: list[int], blocks: int, height: int, skips: list[int]) -> None:
        width = widths[-1]
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(parts.stage(width + skips.pop(), out, height))
                width = out
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)))
                height *= 2

    def _zero_biases(self, last: nn.Conv2d) -> None:
        zeroed = [m.conv2 for m in self.modules() if isinstance(m, ResidualBlock)]
        zeroed += [m.project for m in self.modules() if isinstance(m, Attention)]
        for layer in (*zeroed, last):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Tensor:
        """Velocity (or whatever the method trains) at ``x`` of shape (batch, channels, height, width), ``t`` and ``r`` of shape (batch,)."""
        embedding = self.embed(time_features(t, self.time_size, self.fastest).to(x.dtype))
        ahead = span(t, r, self.embed_span is not None)
        if self.embed_span is not None and ahead is not None:
            embedding = embedding + self.embed_span(time_features(ahead, self.time_size, self.fastest).to(x.dtype))
        if self.label_embedding is not None:
            embedding = embedding + self.label_embedding(labels_or_null(x, cond, self.num_classes))
        embedding = F.silu(embedding)
        h = self.stem(x)
        skips = [h]
        for stage in self.down:
            h = self._run(stage, h, embedding)
            skips.append(h)
        h = self._run(self.middle, h, embedding)
        for stage in self.up:
            if isinstance(stage, nn.ModuleList):
                h = torch.cat([h, skips.pop()], dim=1)
            h = self._run(stage, h, embedding)
        return self.head(h)

    @staticmethod
    def _run(stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        for part in stage if isinstance(stage, nn.ModuleList) else [stage]:
            h = part(h, embedding) if isinstance(part, ResidualBlock) else part(h)
        return h
