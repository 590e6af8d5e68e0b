"""Images as extractors take them: (n, channels, height, width), float32 in [-1, 1] or uint8; mix-ups are refused, not scored."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-4
"""How far outside [-1, 1] a float pixel may be and pass for rounding."""
NEGATIVE_SHARE = 0.05
"""Pixels in 0..255 are hardly ever negative; samples in [-1, 1] that overshoot are dark about as often as bright."""
ADVICE = "pass uint8, or x / 127.5 - 1"


def _refuse_levels(images: Tensor, low: float, high: float) -> None:
    """Raise ValueError for floats that look like 0..255 levels: all integers, or positive and far above 1."""
    mean = float(images.mean(dtype=torch.float64))
    positive = float((images < -1 - ROUNDING).double().mean()) < NEGATIVE_SHARE
    if bool((images == images.round()).all()) or (low > -high and mean > 1 and positive):
        raise ValueError(
            f"images are floats from {low:g} to {high:g} with mean {mean:g}, which look like 0..255 levels; {ADVICE}"
        )


def check_images(images: Tensor, channels: tuple[int, ...], clip: bool = False) -> None:
    """Refuse what is no batch of images in the project's convention.

    Args:
        images: (n, channels, height, width), float in [-1, 1] or uint8 in 0..255.
        channels: numbers of channels allowed.
        clip: let float pixels outside [-1, 1] pass, as samples of a model that the caller clips next.

    Raises ValueError in one line: another rank, no pixels, wrong channel count, other dtypes, NaN or infinite values,
    float images that look like 0..255 levels, and, unless ``clip``, values outside [-1, 1] by more than :data:`ROUNDING`.
    Float images in [0, 1] cannot be told from bright ones in [-1, 1].
    """
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be (n, channels, height, width) and not empty, got shape {tuple(images.shape)}")
    if images.shape[1] not in channels:
        allowed = " or ".join(map(str, channels))
        raise ValueError(
            f"images have {images.shape[1]} channels, the extractor takes {allowed} (channels come second)"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 in 0..255 or floats in [-1, 1], got {images.dtype}")
    low, high = (float(value) for value in images.aminmax())
    if not low - low == high - high == 0:
        bad = int((~images.isfinite()).sum())
        raise ValueError(f"images have {bad} NaN or infinite pixels of {images.numel()}; leave those samples out")
    if high > 1 + ROUNDING:
        _refuse_levels(images, low, high)
    if not clip and max(high, -low) > 1 + ROUNDING:
        raise ValueError(f"float images must be in [-1, 1], got {low:g} to {high:g}; clip samples first, or {ADVICE}")


def to_uint8(images: Tensor) -> Tensor:
    """Nearest levels: [-1, 1] to 0..255 as ``floor(127.5 x + 128)``, clipped; uint8 passes. Unbiased and exact for ``k / 127.5 - 1``."""
    if images.dtype == torch.uint8:
        return images
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def truncated_uint8(images: Tensor) -> Tensor:
    """Levels rounded down, ``floor(255 (x + 1) / 2)``: half a level too dark on average; what ``(255 * x).byte()`` does to
    floats in [0, 1]. uint8 is taken through floats in [0, 1] and comes back unchanged.
    """
    unit = images.float() / 255 if images.dtype == torch.uint8 else (images.clamp(-1, 1) + 1) / 2
    return (unit * 255).to(torch.uint8)


def as_rgb(images: Tensor) -> Tensor:
    """(n, 1 or 3, height, width) to (n, 3, height, width): greyscale is repeated."""
    return images.expand(-1, 3, -1, -1)
