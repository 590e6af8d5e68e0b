"""An extractor by its name: a network known to the field, or a classifier of the zoo."""

from __future__ import annotations

from functools import cache

import torch

from fmbench.features.extractor import Extractor, InDomain
from fmbench.flows.flow import FEATURES
from fmbench.registry import EXTRACTORS

CLASSIFIER_CHUNK = 256


@cache
def load_extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor of a name in :data:`EXTRACTORS`, or of a zoo entry ``task/entry`` whose method is a classifier.

    Weights are downloaded on first use. Raises ValueError in one line when the name is unknown (listing the nearest) or the
    entry is no classifier, and what :func:`fmbench.storage.download.fetch_file` raises.
    """
    place = torch.device(device)
    if "/" not in name:
        return EXTRACTORS.resolve(name)(name, place)
    from fmbench.zoo.resolve import load

    model = load(name)
    if FEATURES not in model.method.capabilities:
        raise ValueError(f"{name} is no classifier, so it extracts no features")
    method = model.method.to(place)
    head = getattr(method.net, "head", None)

    def network(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = method.features(x)  # type: ignore[operator]
        return features, None if head is None else head(features)

    shape = InDomain(model.task.shape)
    return Extractor(name, model.identity["weights_sha256"], network, shape, CLASSIFIER_CHUNK, place)
