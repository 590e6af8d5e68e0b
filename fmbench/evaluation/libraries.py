"""FID by the libraries themselves, where they are installed, beside fmbench's own implementations of their conventions.

Each runs its own code on the images: clean-fid resizes and computes the distance, torchmetrics is its metric object, fed by a module that
prepares images as its Inception does. The network is the one all dialects share, so that what differs is the convention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmbench.evaluation.dialects import CONVENTIONS, Convention
from fmbench.features.extractor import Extractor, run_network
from fmbench.features.images import as_rgb, to_uint8
from fmbench.shapes import Points

BATCH = 64
CLEAN_FID = {"clean-fid clean": "clean", "clean-fid legacy_pytorch": "legacy_pytorch"}
"""Conventions whose resizing clean-fid does before its network, by its name for the mode."""
NAMES = (*CLEAN_FID, "torchmetrics")


def available() -> tuple[str, ...]:
    """Names of the conventions whose library is installed."""
    there = {"clean-fid": find_spec("cleanfid") is not None, "torchmetrics": find_spec("torchmetrics") is not None}
    return tuple(name for name in NAMES if there[name.partition(" ")[0]])


def library_fids(
    images: Points, reference_images: Points, network: Extractor
) -> Iterator[tuple[Convention, str, float]]:
    """(convention, ``library version``, FID) of every library that is installed.

    ``images`` and ``reference_images`` are (n, 1 or 3, height, width) in [-1, 1] or uint8, checked before. Raises ValueError in one line, naming
    the library, for whatever its code raises.
    """
    by_name = {convention.name: convention for convention in CONVENTIONS}
    levels = [as_rgb(to_uint8(x)) for x in (images, reference_images)]
    for name in available():
        library = name.partition(" ")[0]
        act: Callable[..., float] = _clean_fid if library == "clean-fid" else _torchmetrics
        try:
            score = act(levels, by_name[name], network)
        except Exception as error:
            raise ValueError(f"{library} {version(library)} failed on these images: {error}") from error
        yield by_name[name], f"{library} {version(library)}", score


def _clean_fid(levels: list[Tensor], convention: Convention, network: Extractor) -> float:
    from cleanfid.fid import fid_from_feats
    from cleanfid.resize import build_resizer

    resize = build_resizer(CLEAN_FID[convention.name])
    prepared = []
    for images in levels:
        resized = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images])
        prepared.append(torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().float())
    normalised = [_normalised(x, convention) for x in prepared]
    features = [run_network(network.network, lambda x: x, x, network.chunk, network.device)[0] for x in normalised]
    return float(fid_from_feats(*features))


def _normalised(levels: Tensor, convention: Convention) -> Tensor:
    from fmbench.evaluation.dialects import NORMALISATIONS

    return NORMALISATIONS[convention.normalise](levels)


class _Features(nn.Module):
    """The shared network as a module that torchmetrics takes: images in 8 bits to features."""

    def __init__(self, convention: Convention, network: Extractor, width: int) -> None:
        super().__init__()
        self.convention, self.extractor, self.num_features = convention, network, width

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, width)."""
        found, _ = run_network(
            self.extractor.network, self.convention.prepare, images, self.extractor.chunk, self.extractor.device
        )
        return torch.from_numpy(found)


def _torchmetrics(levels: list[Tensor], convention: Convention, network: Extractor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    first, _ = run_network(network.network, convention.prepare, levels[0][:1], network.chunk, network.device)
    channels, height, width = levels[0].shape[1:]
    features = _Features(convention, network, first.shape[1])
    metric: Any = FrechetInceptionDistance(features, input_img_size=(channels, height, width))
    for images, real in zip(levels, (False, True), strict=True):
        for part in images.split(BATCH):
            metric.update(part, real=real)
    return float(metric.compute())
