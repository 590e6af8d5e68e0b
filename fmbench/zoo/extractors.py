"""Extractors by name: a published network, or a classifier of the zoo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from fmbench.features.extractor import Extractor, InDomain
from fmbench.flows.flow import FEATURES
from fmbench.registry import EXTRACTORS, UnknownName, nearest
from fmbench.zoo.model import Model
from fmbench.zoo.resolve import Resolved, resolve

CLASSIFIER_CHUNK = 256


@dataclass(frozen=True)
class Named:
    """An extractor that is known and not loaded.

    Attributes:
        name: the name it was requested by.
        pinned: what its features depend on: the code of a registered one, which pins its weights; the SHA-256 of an entry's weights.
        model: the entry; None for a registered one.
    """

    name: str
    pinned: str
    model: Resolved | None = None

    def load(self, device: str = "cpu") -> Extractor:
        """The extractor on a device; weights are downloaded on first use.

        Raises ValueError in one line for an entry that is no classifier, and what :func:`fmbench.storage.download.fetch_file` raises.
        """
        place = torch.device(device)
        if self.model is None:
            return EXTRACTORS.resolve(self.name)(self.name, place)
        return _of_classifier(self.name, self.model.load(), place)


@cache
def resolve_extractor(name: str) -> Named:
    """The extractor of a name in :data:`EXTRACTORS`, of ``task/entry`` of a classifier in the zoo, or of its folder; nothing is loaded.

    Resolved once per process, so that the features are those of the weights that their results name. Raises UnknownName, which lists the
    nearest, and what :func:`~fmbench.zoo.resolve.resolve` raises.
    """
    if (code := EXTRACTORS.all().get(name)) is not None:
        return Named(name, code)
    if "/" not in name:
        raise UnknownName(nearest("extractor", name, EXTRACTORS.all()))
    found = resolve(name)
    weights = found.entry.recipe.weights
    return Named(name, weights.sha256 if weights else "", found)


def _of_classifier(name: str, model: Model, place: torch.device) -> Extractor:
    """The features, and logits where it has a head, of a classifier."""
    if FEATURES not in model.method.capabilities:
        raise ValueError(f"{name} is no classifier, so it extracts no features")
    method = model.method.to(place)
    head = getattr(method.net, "head", None)

    def network(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = method.features(x)  # type: ignore[operator]
        return features, None if head is None else head(features)

    shape = InDomain(model.task.shape)
    return Extractor(name, model.identity["weights_sha256"], network, shape, CLASSIFIER_CHUNK, place)


@cache
def load_extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor of a name on a device, loaded once in a process. Raises what :func:`resolve_extractor` and :meth:`Named.load` raise."""
    return resolve_extractor(name).load(device)
