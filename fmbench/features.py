"""Feature extractors: a named network with pinned weights. A distance on features is only as comparable as its extractor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from fmbench.methods.classifier import Classifier
from fmbench.shapes import Points

CHUNK = 256


@dataclass(frozen=True)
class Extractor:
    """A feature extractor.

    Attributes:
        name: entry it comes from.
        sha256: hash of its weights.
        classifier: the trained network; features are its penultimate activations.
    """

    name: str
    sha256: str
    classifier: Classifier

    @property
    def identity(self) -> dict[str, Any]:
        """What a result records."""
        return {"name": self.name, "sha256": self.sha256}

    def features(self, images: Points) -> np.ndarray:
        """(n, *shape) images in [-1, 1] -> (n, f) float64, on the CPU in chunks of 256 so that no batch size can change them.

        Pixels are clipped to [-1, 1]: what a viewer would see is what is scored.
        """
        with torch.no_grad():
            chunks = [self.classifier.features(chunk.clamp(-1, 1)) for chunk in images.split(CHUNK)]
        return torch.cat(chunks).double().numpy()


@cache
def load_extractor(name: str) -> Extractor:
    """The extractor of an entry whose method is a classifier. Raises ValueError when it is not."""
    from fmbench.model import load

    model = load(name)
    if not isinstance(model.method, Classifier):
        raise ValueError(f"{name} is no classifier, so it extracts no features")
    return Extractor(name, model.identity["weights_sha256"], model.method)
