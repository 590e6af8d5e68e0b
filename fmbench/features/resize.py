"""Resizing as FID implementations do it: five conventions that give five different scores for the same images.

All take float32 levels (n, channels, height, width) in 0..255 and return (n, channels, size, size) in 0..255; images that
are not square are squeezed. Parmar et al., arXiv:2104.11222, section 3, measure what the choice does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def _positions(inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right source index and the weight of the right one, (outputs,): ``i * inputs / outputs``, no half-pixel shift."""
    # TensorFlow multiplies in float32; float64 would pick other pixels where a product falls on an integer.
    position = torch.arange(outputs, dtype=torch.float32) * torch.tensor(inputs / outputs, dtype=torch.float32)
    left = position.long()
    return left, (left + 1).clamp_max(inputs - 1), position - left


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """``tf.image.resize_bilinear`` of TensorFlow 1: corners aligned at the top left, no antialiasing. The original FID's."""
    top, bottom, dy = (part.to(images.device) for part in _positions(images.shape[2], size))
    left, right, dx = (part.to(images.device) for part in _positions(images.shape[3], size))
    upper, lower = images[:, :, top], images[:, :, bottom]
    upper = upper[..., left] + (upper[..., right] - upper[..., left]) * dx
    lower = lower[..., left] + (lower[..., right] - lower[..., left]) * dx
    return upper + (lower - upper) * dy[:, None]


def bilinear(images: Tensor, size: int) -> Tensor:
    """PyTorch's default: half-pixel centres, no antialiasing (pytorch-fid)."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def bilinear_antialias(images: Tensor, size: int) -> Tensor:
    """Half-pixel centres, antialiased (torchmetrics since 1.8)."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def pil_bicubic(images: Tensor, size: int) -> Tensor:
    """Pillow's antialiased bicubic on float channels, clipped to 0..255, not rounded (clean-fid)."""
    from PIL import Image

    channels = images.flatten(0, 1).cpu().numpy()
    resized = [Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC) for channel in channels]
    stacked = np.stack([np.asarray(image) for image in resized]).clip(0, 255)
    return torch.from_numpy(stacked).to(images.device).unflatten(0, images.shape[:2])


def pil_bicubic_uint8(images: Tensor, size: int) -> Tensor:
    """Pillow's antialiased bicubic on 8-bit RGB, rounded (the preprocessing of CLIP and of FD-DINOv2)."""
    from PIL import Image

    pictures = images.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    resized = [Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC) for picture in pictures]
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
    return stacked.permute(0, 3, 1, 2).float().to(images.device)


RESIZES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tf1-bilinear": tf1_bilinear,
    "bilinear": bilinear,
    "bilinear-antialias": bilinear_antialias,
    "pil-bicubic": pil_bicubic,
    "pil-bicubic-uint8": pil_bicubic_uint8,
}
"""Conventions by name: part of an extractor's identity."""
