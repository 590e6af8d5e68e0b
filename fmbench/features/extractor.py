"""Feature extractors: a named network with pinned weights and preprocessing. A distance on features is only as comparable
as its extractor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fmbench.features.images import as_rgb, check_images, to_uint8
from fmbench.features.resize import RESIZES
from fmbench.shapes import Points
from fmbench.transfers import Gathered, sent

Network: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Preprocessed images (n, channels, height, width) to features (n, f) and logits (n, classes), None where it has none."""


class Preprocessing(Protocol):
    """What happens to images before the network."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a result records about it."""
        ...

    def check(self, images: Points, clip: bool) -> None:
        """Raise ValueError in one line for images that it cannot take."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, channels, height, width) in [-1, 1] or uint8 to what the network takes."""
        ...


@dataclass(frozen=True)
class InDomain:
    """Images of one task as they are: floats clipped to [-1, 1], neither resized nor rounded.

    Attributes:
        shape: (channels, height, width) of the task.
    """

    shape: tuple[int, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """Nothing: the entry's name says it all."""
        return {}

    def check(self, images: Points, clip: bool) -> None:
        """Raise ValueError for another image size, and like :func:`~fmbench.features.images.check_images`."""
        check_images(images, self.shape[:1], clip)
        if tuple(images.shape[1:]) != tuple(self.shape):
            raise ValueError(f"images must have shape {tuple(self.shape)} each, got {tuple(images.shape[1:])}")

    def __call__(self, images: Tensor) -> Tensor:
        """(n, *shape) float32 in [-1, 1]."""
        images = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()
        return images.clamp(-1, 1)


@dataclass(frozen=True)
class Rgb:
    """RGB or greyscale images of any size, rounded to 8 bits as a PNG would, resized and normalised.

    Attributes:
        size: side of the square that the network sees.
        resize: name in :data:`~fmbench.features.resize.RESIZES`.
        mean, std: per channel, in levels of 0..255: the network gets ``(level - mean) / std``.
    """

    size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def identity(self) -> dict[str, Any]:
        """Every step, greyscale included."""
        return {
            "quantise": "uint8, nearest",
            "resize": f"{self.resize} to {self.size}x{self.size}",
            "mean": list(self.mean),
            "std": list(self.std),
            "greyscale": "repeated to 3 channels",
        }

    def check(self, images: Points, clip: bool) -> None:
        """Raise ValueError like :func:`~fmbench.features.images.check_images` for anything but 1 or 3 channels."""
        check_images(images, (1, 3), clip)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, size, size) float32."""
        levels = RESIZES[self.resize](as_rgb(to_uint8(images)).float(), self.size)
        mean, std = (torch.tensor(value, device=levels.device)[:, None, None] for value in (self.mean, self.std))
        return (levels - mean) / std


def network_outputs(
    network: Network, prepare: Callable[[Tensor], Tensor], images: Points, chunk: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Features (n, f) and logits (n, classes) or None, float32 on the CPU, of ``network(prepare(part))`` over parts of ``chunk`` images.

    A short part is filled up with its own first image, because convolutions and matrix products pick their algorithm, and
    so their rounding, by the batch size. The network is on ``device``, and so is what it gets. On a GPU TF32 is off, and no part waits for
    the one before, unless the images are resized by Pillow, which computes on the host.
    """
    features, logits = Gathered(), None
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for part in images.split(chunk):
            full = torch.cat([part, part[:1].expand(chunk - len(part), *part.shape[1:])])
            made, scores = network(prepare(sent(full, device)))
            features.add(made[: len(part)].float())
            if scores is not None:
                logits = logits or Gathered()
                logits.add(scores[: len(part)].float())
        return features.whole(), None if logits is None else logits.whole()


def run_network(
    network: Network, prepare: Callable[[Tensor], Tensor], images: Points, chunk: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray | None]:
    """:func:`network_outputs` as arrays."""
    features, logits = network_outputs(network, prepare, images, chunk, device)
    return features.numpy(), None if logits is None else logits.numpy()


@dataclass(frozen=True)
class Extractor:
    """A feature extractor.

    Attributes:
        name: the name it is loaded by.
        sha256: hash of its weights.
        network: the trained network.
        preprocessing: what happens to images before it.
        chunk: images per network call, fixed and padded, so that no batch size can change a feature.
        device: where the network is.
    """

    name: str
    sha256: str
    network: Network
    preprocessing: Preprocessing
    chunk: int = 8
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def identity(self) -> dict[str, Any]:
        """What a result records: name, hash of the weights, every step of the preprocessing."""
        return {"name": self.name, "sha256": self.sha256, **self.preprocessing.identity}

    def outputs(self, images: Points, clip: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        """Features (n, f) and logits (n, classes), None without a classifier head, float32, in one pass.

        Args:
            images: (n, channels, height, width), float32 in [-1, 1] or uint8.
            clip: clip float pixels to [-1, 1], as a viewer would see samples that overshoot; otherwise they are refused.

        Raises ValueError in one line for images that :func:`~fmbench.features.images.check_images` refuses.
        """
        self.preprocessing.check(images, clip)
        return run_network(self.network, self.preprocessing, images, self.chunk, self.device)

    def features(self, images: Points, clip: bool = True) -> np.ndarray:
        """(n, f) float32 features; arguments and errors of :meth:`outputs`."""
        return self.outputs(images, clip)[0]

    def logits(self, images: Points, clip: bool = True) -> np.ndarray:
        """(n, classes) float32 logits, for the inception score; also raises ValueError when the network has none."""
        logits = self.outputs(images, clip)[1]
        if logits is None:
            raise ValueError(f"{self.name} has no classifier head, so there are no logits; use inception-tf")
        return logits
