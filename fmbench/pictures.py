"""Samples as a picture: a grid of images, or the density of a cloud of 2-D points."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

SCALE_TO = 40
"""Small images are enlarged, pixel by pixel, to about this size."""


def to_uint8(images: Tensor) -> np.ndarray:
    """[-1, 1] -> 0..255 with the unbiased quantiser ``round(127.5 x + 127.5)``; values outside are clipped."""
    return np.rint(images.clamp(-1, 1).numpy() * 127.5 + 127.5).astype(np.uint8)


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """(n, channels, height, width) in [-1, 1] as one picture, row by row, with a white gap of one pixel."""
    pixels = to_uint8(images).transpose(0, 2, 3, 1)
    n, height, width, channels = pixels.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 255, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)
    factor = max(1, SCALE_TO // height)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def density(points: Tensor, pixels: int = 480) -> Image.Image:
    """(n, 2) points as a dark-on-white histogram over their bounding square."""
    xy = points.numpy()
    centre, half = (xy.max(0) + xy.min(0)) / 2, max(float(np.ptp(xy, axis=0).max()) / 2 * 1.05, 1e-6)
    box = [[c - half, c + half] for c in centre]
    bins = int(np.clip(np.sqrt(len(xy)) * 2, 24, 160))
    counts = np.histogram2d(xy[:, 0], xy[:, 1], bins=bins, range=box)[0].T[::-1]
    shade = 255 - np.rint(255 * np.sqrt(counts / counts.max())).astype(np.uint8)
    return Image.fromarray(shade).resize((pixels, pixels), Image.Resampling.NEAREST)


def picture(samples: Tensor) -> Image.Image:
    """Grid for images, density for 2-D points. Raises ValueError for anything else."""
    if samples.ndim == 4:
        return grid(samples)
    if samples.ndim == 2 and samples.shape[1] == 2:
        return density(samples)
    raise ValueError(f"samples of shape {tuple(samples.shape)} cannot be drawn; write them to a .npy file instead")
