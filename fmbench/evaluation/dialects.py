"""One FID, several dialects: the same images and the same network under the conventions of the libraries in use.

Papers report "FID" from clean-fid, pytorch-fid, torch-fidelity or torchmetrics. These round, resize and sum differently, and
the scores differ by more than many claimed improvements (Parmar et al., arXiv:2104.11222). Here every convention is applied to
the same samples and the spread is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmbench.features.extractor import Extractor, run_network
from fmbench.features.images import as_rgb, check_images, to_uint8, truncated_uint8
from fmbench.features.resize import RESIZES
from fmbench.metrics.frechet import between, frechet_distance
from fmbench.shapes import Points
from fmbench.statistics.moments import Moments

SIZE = 299
OURS = "fmbench"
QUANTISERS: dict[str, Callable[[Tensor], Tensor]] = {"nearest": to_uint8, "truncated": truncated_uint8}
"""From floats in [-1, 1] to 8 bits."""


def centred(levels: Tensor) -> Tensor:
    """0..255 to [-1, 1): ``(x - 128) / 128``, the normalisation in TensorFlow's graph."""
    return (levels - 128) / 128


def symmetric(levels: Tensor) -> Tensor:
    """0..255 to [-1, 1]: ``2 x / 255 - 1``, that of pytorch-fid."""
    return 2 * (levels / 255) - 1


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {"(x-128)/128": centred, "2x/255-1": symmetric}


@dataclass(frozen=True)
class Convention:
    """The convention of a library to compute a score from images.

    Attributes:
        name: the library and its mode.
        resize: name in :data:`~fmbench.features.resize.RESIZES`.
        quantise: key of :data:`QUANTISERS`.
        normalise: key of :data:`NORMALISATIONS`.
        mean_dtype: precision in which features are averaged; covariances are float64 everywhere.
        result_dtype: precision of the score.
        ddof: n - ddof divides the covariance.
    """

    name: str
    resize: str
    quantise: str = "nearest"
    normalise: str = "(x-128)/128"
    mean_dtype: str = "float64"
    result_dtype: str = "float64"
    ddof: int = 1

    @property
    def pixels(self) -> tuple[str, str, str]:
        """The settings that determine the network's input."""
        return self.resize, self.quantise, self.normalise

    def prepare(self, images: Tensor) -> Tensor:
        """(n, 1 or 3, height, width) in [-1, 1] or uint8 to what the network takes, (n, 3, 299, 299)."""
        levels = as_rgb(QUANTISERS[self.quantise](images)).float()
        return NORMALISATIONS[self.normalise](RESIZES[self.resize](levels, SIZE))


CONVENTIONS = (
    Convention(OURS, "tf1-bilinear"),
    Convention("clean-fid clean", "pil-bicubic", mean_dtype="float32"),
    Convention("clean-fid legacy_pytorch", "bilinear", normalise="2x/255-1", mean_dtype="float32"),
    Convention("clean-fid legacy_tensorflow", "tf1-bilinear", mean_dtype="float32"),
    Convention("torch-fidelity", "tf1-bilinear", mean_dtype="float32"),
    Convention("torchmetrics", "bilinear-antialias", result_dtype="float32"),
    Convention("torchmetrics normalize=True", "bilinear-antialias", "truncated", result_dtype="float32"),
)
"""The first is the project's; versions whose conventions these are: clean-fid 0.1.35, torch-fidelity 0.4, torchmetrics 1.8 and
1.9 (before 1.8 torchmetrics resized like torch-fidelity). pytorch-fid 0.3 scores like legacy_pytorch with a float64 mean."""


@dataclass(frozen=True)
class Dialect:
    """One row: a convention and its score.

    Attributes:
        name, resize, quantise, normalise, mean_dtype, result_dtype, ddof: of the :class:`Convention`.
        n, reference_n: images scored and compared with.
        fid: the score.
        difference: score minus that of the project's own convention.
        relative: that difference as a share of the project's score, NaN when that is 0.
    """

    name: str
    resize: str
    quantise: str
    normalise: str
    mean_dtype: str
    result_dtype: str
    ddof: int
    n: int
    reference_n: int
    fid: float
    difference: float
    relative: float


@dataclass(frozen=True)
class Spread:
    """Lowest and highest score over all conventions, and the gap as a share of the project's own score."""

    lowest: float
    highest: float
    relative: float


def distance(features: np.ndarray, reference: np.ndarray, convention: Convention) -> float:
    """Frechet distance of features (n, f) and (m, f) in the precision of a convention.

    Raises ValueError in one line for fewer than two images on a side or features that are not finite.
    """
    moments = [Moments.of(x) for x in (features, reference)]
    if convention.mean_dtype == "float64":
        value = between(*moments)
    else:
        means = [np.mean(x, axis=0, dtype=convention.mean_dtype) for x in (features, reference)]
        value = frechet_distance(means[0], moments[0].cov, means[1], moments[1].cov)
    return float(np.dtype(convention.result_dtype).type(value))


def dialect_features(images: Points, convention: Convention, extractor: Extractor) -> np.ndarray:
    """Features (n, f) float32 of the extractor's network under another convention than its own."""
    return run_network(extractor.network, convention.prepare, images, extractor.chunk, extractor.device)[0]


def fid_dialects(
    images: Points,
    reference_images: Points,
    network: Extractor,
    conventions: Sequence[Convention] = CONVENTIONS,
    report: Callable[[str], None] | None = None,
) -> list[Dialect]:
    """The same images scored under every convention, through one network.

    Conventions that show the network the same pixels share its passes (five of seven differ). Features of one convention are in
    memory at a time: 0.8 GB for 50,000 images on both sides.

    Args:
        images: (n, 1 or 3, height, width) samples, float32 in [-1, 1] (clipped) or uint8.
        reference_images: (m, 1 or 3, height, width) real images, the same: a reference may be another model's samples, which overshoot.
        network: whose network scores; its own preprocessing is not used. ``load_extractor("inception-tf")``, or
            ``"inception-random"`` where the weights cannot be had.
        conventions: rows wanted; differences are to the first.
        report: called with the name of each convention before it is computed.

    Raises ValueError in one line for images that :func:`~fmbench.features.images.check_images` refuses, and for fewer than two
    on a side.
    """
    for what, x in (("images", images), ("reference images", reference_images)):
        check_images(x, (1, 3), clip=True)
        if len(x) < 2:
            raise ValueError(f"a FID needs at least 2 {what}, got {len(x)}")
    images, reference_images = (x if x.dtype == torch.uint8 else x.clamp(-1, 1) for x in (images, reference_images))
    rows: dict[str, float] = {}
    for pixels in dict.fromkeys(convention.pixels for convention in conventions):
        sharing = [convention for convention in conventions if convention.pixels == pixels]
        if report:
            report(", ".join(convention.name for convention in sharing))
        features, reference = (dialect_features(x, sharing[0], network) for x in (images, reference_images))
        rows |= {convention.name: distance(features, reference, convention) for convention in sharing}
    ours = rows[conventions[0].name]
    return [
        Dialect(
            **asdict(convention),
            n=len(images),
            reference_n=len(reference_images),
            fid=rows[convention.name],
            difference=rows[convention.name] - ours,
            relative=(rows[convention.name] - ours) / ours if ours else float("nan"),
        )
        for convention in conventions
    ]


def spread(dialects: Sequence[Dialect]) -> Spread:
    """The spread of the score over the conventions; the first row is the project's own."""
    scores = [dialect.fid for dialect in dialects]
    gap = max(scores) - min(scores)
    return Spread(min(scores), max(scores), gap / scores[0] if scores[0] else float("nan"))


def table(dialects: Sequence[Dialect]) -> list[dict[str, Any]]:
    """Rows for a terminal table or JSON, numbers unrounded."""
    return [asdict(dialect) for dialect in dialects]
