"""Feature extractors by name, their features on disk, and reference statistics."""

from fmbench.features.extractor import Extractor
from fmbench.features.loading import EXTRACTORS, load_extractor

__all__ = ["EXTRACTORS", "Extractor", "load_extractor"]
