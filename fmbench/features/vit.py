"""Vision transformer (Dosovitskiy et al., arXiv:2010.11929) in the variants of DINOv2 (Oquab et al., arXiv:2304.07193) and of
CLIP's image tower (Radford et al., arXiv:2103.00020). Modules are named as in DINOv2's checkpoint; CLIP's names are mapped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OFFSET = 0.1
"""DINOv2 interpolates positions by the factor (grid + 0.1) / trained grid, an old guard against rounding that stayed."""


@dataclass(frozen=True)
class Shape:
    """A variant.

    Attributes:
        patch: side of a patch in pixels.
        grid: patches along a side in training; positions are interpolated for another.
        width, depth, heads: of the transformer.
        clip: CLIP's conventions instead of DINOv2's: norm before the blocks, ``x sigmoid(1.702 x)`` for GELU, no layer scale,
            no bias of the patches, eps 1e-5, a projection at the end.
        out: width of that projection.
    """

    patch: int
    grid: int
    width: int
    depth: int
    heads: int
    clip: bool = False
    out: int = 0

    @property
    def eps(self) -> float:
        """Of the layer norms."""
        return 1e-5 if self.clip else 1e-6


DINOV2_L14 = Shape(patch=14, grid=37, width=1024, depth=24, heads=16)
CLIP_B32 = Shape(patch=32, grid=7, width=768, depth=12, heads=12, clip=True, out=512)
CLIP_L14_336 = Shape(patch=14, grid=24, width=1024, depth=24, heads=16, clip=True, out=768)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers, four times as wide in between."""

    def __init__(self, width: int, clip: bool) -> None:
        super().__init__()
        self.clip = clip
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x) if self.clip else F.gelu(x))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.norm1, self.norm2 = nn.LayerNorm(width, shape.eps), nn.LayerNorm(width, shape.eps)
        self.attn, self.mlp = Attention(width, shape.heads), MLP(width, shape.clip)
        self.ls1, self.ls2 = (nn.Identity() if shape.clip else LayerScale(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Images to the class token after the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.grid**2 + 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, shape.patch, shape.patch, bias=not shape.clip)})
        self.norm_pre = nn.LayerNorm(width, shape.eps) if shape.clip else nn.Identity()
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.depth)))
        self.norm = nn.LayerNorm(width, shape.eps)
        self.head = nn.Linear(width, shape.out, bias=False) if shape.out else nn.Identity()

    def positions(self, grid: int) -> Tensor:
        """Position embeddings (1, grid^2 + 1, width), bicubic where the grid is not the trained one."""
        if grid == self.shape.grid:
            return self.pos_embed
        patches = self.pos_embed[:, 1:].unflatten(1, (self.shape.grid, self.shape.grid)).permute(0, 3, 1, 2)
        factor = (grid + OFFSET) / self.shape.grid
        patches = F.interpolate(patches, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised square images (n, 3, side, side) to features (n, width), or (n, out) where there is a projection."""
        patches = self.patch_embed["proj"](x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = self.blocks(self.norm_pre(tokens + self.positions(patches.shape[-1])))
        return self.head(self.norm(x[:, 0]))


CLIP_NAMES = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""CLIP's names of modules and ours."""


def from_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of a CLIP state dict (names that start with ``visual.``) as a state dict of :class:`VisionTransformer`."""
    made = {}
    for name, value in state.items():
        if not name.startswith("visual."):
            continue
        name = name.removeprefix("visual.")
        for pattern, ours in CLIP_NAMES:
            name = re.sub(pattern, ours, name)
        made[name] = value.float()
    made["cls_token"] = made.pop("class_embedding")[None, None]
    made["pos_embed"] = made.pop("positional_embedding")[None]
    made["head.weight"] = made.pop("proj").T
    return made


def from_dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A DINOv2 state dict without the mask token, which only training uses."""
    return {name: value for name, value in state.items() if name != "mask_token"}


def build_vit(shape: Shape, state: Mapping[str, Tensor]) -> VisionTransformer:
    """A transformer with its weights, in evaluation mode. Raises RuntimeError, as torch does, when they do not fit."""
    with torch.device("meta"):
        net = VisionTransformer(shape)
    net.load_state_dict(dict(state), assign=True)
    return net.eval().requires_grad_(False)
