"""Feature extractors, their features on disk, and reference statistics."""

from fmbench.features.extractor import Extractor

__all__ = ["Extractor"]
