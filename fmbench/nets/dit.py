"""Diffusion transformer with adaLN-Zero conditioning: Peebles & Xie, ICCV 2023, 2212.09748."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbench.nets.attention import attention
from fmbench.nets.embedding import FAST, SLOW, labels_or_null, span, time_features
from fmbench.nets.sizes import require_sizes
from fmbench.shapes import Condition, Points, Times

TIME_FEATURES = 256


def position_features(rows: int, columns: int, size: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, (rows * columns, size), row-major: one half of the features sees the row, the other the column.

    Frequencies are geometric from 1 down to 1e-4 radians per patch. ``size`` must be divisible by 4.
    """
    frequencies = 10_000.0 ** -(torch.arange(size // 4, dtype=torch.float64) / (size // 4))
    grid = torch.cartesian_prod(torch.arange(rows).double(), torch.arange(columns).double())
    angles = grid[:, :, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift`` with x (batch, tokens, width) and one scale and shift (batch, width) per sample."""
    return x * (1 + scale[:, None]) + shift[:, None]


class SelfAttention(nn.Module):
    """Multi-head softmax attention over the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> the same shape."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.project(attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a GELU perceptron, each normed, scaled, shifted and gated by the condition; the gates start closed (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(approximate="tanh"), nn.Linear(ratio * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(batch, tokens, width), (batch, width) -> (batch, tokens, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attention(modulate(self.norm(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm(x), shift2, scale2))


class DiT(nn.Module):
    """Transformer on patches of an image; time and label enter through adaLN-Zero, and the network starts at 0.

    Labels are dropped by the method in training (``label_dropout``); here index ``num_classes`` means "no label".

    Args:
        shape: (channels, height, width) of one image; height and width divisible by ``patch``.
        num_classes: classes for conditioning, 0 for none.
        patch: side of a patch; halving it makes four times as many tokens.
        width: width of a token; divisible by 4 and by ``heads``.
        depth: number of blocks.
        heads: attention heads.
        ratio: width of the perceptron's hidden layer as a multiple of ``width``.
        second_time: whether the network also takes ``r``, the other end of a map between two times; both times then have slow features,
            up to 16 radians instead of 1000, because such a map is differentiated by them.

    Raises ValueError for sizes that do not divide.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int = 0,
        patch: int = 2,
        width: int = 96,
        depth: int = 4,
        heads: int = 3,
        ratio: int = 4,
        second_time: bool = False,
    ) -> None:
        super().__init__()
        require_sizes("DiT", patch=patch, width=width, heads=heads, ratio=ratio)
        require_sizes("DiT", least=0, depth=depth)
        if len(shape) != 3 or shape[1] % patch or shape[2] % patch:
            raise ValueError(f"a DiT of patch {patch} needs images (c, h, w) divisible by {patch}, got {tuple(shape)}")
        if width % 4 or width % heads:
            raise ValueError(f"DiT width must be divisible by 4 and by heads = {heads}, got {width}")
        self.num_classes, self.patch = num_classes, patch
        self.grid = (shape[1] // patch, shape[2] // patch)
        self.patches = nn.Conv2d(shape[0], width, patch, stride=patch)
        # Fixed, so not part of the weights.
        self.register_buffer("positions", position_features(*self.grid, width), persistent=False)
        self.embed = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.label_embedding = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.blocks = nn.ModuleList(Block(width, heads, ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, shape[0] * patch**2)
        self.fastest = SLOW if second_time else FAST
        self.embed_span = None
        if second_time:
            self.embed_span = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self._initialise()

    def _initialise(self) -> None:
        """Xavier-uniform matrices with zero biases, N(0, 0.02^2) for what embeds time and label, zero for gates and output."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in (*self.embed, *(self.embed_span or ()), self.label_embedding):
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, (Block, DiT)):
                nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Tensor:
        """Velocity (or whatever the method trains) at ``x`` of shape (batch, channels, height, width), ``t`` and ``r`` of shape (batch,)."""
        condition = self.embed(time_features(t, TIME_FEATURES, self.fastest).to(x.dtype))
        ahead = span(t, r, self.embed_span is not None)
        if self.embed_span is not None and ahead is not None:
            condition = condition + self.embed_span(time_features(ahead, TIME_FEATURES, self.fastest).to(x.dtype))
        if self.label_embedding is not None:
            condition = condition + self.label_embedding(labels_or_null(x, cond, self.num_classes))
        condition = F.silu(condition)
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h, condition)
        h = self.last(modulate(self.norm(h), *self.modulation(condition).chunk(2, dim=1)))
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, self.grid), self.patch)
