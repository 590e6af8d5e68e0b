"""Feature extractors, their features on disk, and stated statistics of a reference."""

from typing import Any

from fmbench import moved
from fmbench.features.extractor import Extractor

__all__ = ["Extractor"]


def __getattr__(name: str) -> Any:
    if name == "load_extractor":
        return moved.attribute(__name__, name, "fmbench.zoo.extractors")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
