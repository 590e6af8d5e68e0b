"""Samples as a picture: a grid of images, the density of a cloud of 2-D points, or trajectories from noise to image."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmbench.flows.velocity import VelocityFlow
from fmbench.records.sampler import Sampler
from fmbench.shapes import Labels, as_condition
from fmbench.solvers.base import uniform_grid
from fmbench.solvers.euler import Euler
from fmbench.zoo.model import Model, device_of

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


def trajectories(
    model: Model,
    n: int,
    *,
    seed: int = 0,
    steps: int = 32,
    columns: int = 9,
    guidance: float = 1.0,
    labels: Labels | None = None,
) -> Image.Image:
    """Trajectories of the first ``n`` noises of a seed, one row each: ``columns`` equally spaced times from 0 to 1, by Euler.

    Raises ValueError for models of anything but images, without a velocity field, or with fewer steps than it takes to tell the times
    apart, and for guidance that :meth:`Model.sample` refuses.
    """
    method = model.method
    if model.task.kind != "image" or not isinstance(method, VelocityFlow):
        raise ValueError(f"{model.name} has no trajectories of images; they need an image task and a velocity field")
    if not 2 <= columns <= steps + 1:
        raise ValueError(f"{columns} times need at least 2 and at most {steps + 1} columns with {steps} steps")
    if labels is None:
        labels = model.labels(0, n, seed)
    sampler = Sampler("euler", steps, guidance=guidance)
    cond = as_condition(labels)
    method.require_guidable(sampler.guidance, cond)
    device, states = device_of(method), []
    with torch.no_grad():
        field = method.field(None if cond is None else cond.to(device), guidance)
        start = model.noise(0, n, seed).to(device)
        states.append(Euler().solve(field, start, uniform_grid(steps), visit=lambda t, x, v: states.append(x)))
    chosen = [states[round(k * steps / (columns - 1))] for k in range(columns)]
    return grid(torch.stack(chosen, dim=1).flatten(0, 1).cpu(), columns)
