"""What metrics were given before there was evidence: for plug-ins and scripts that make or name it. It goes with the next version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fmbench.metrics.evidence import QUADRATIC, Evidence
from fmbench.metrics.reference import Part, Reference, Shared

__all__ = ["QUADRATIC", "SampleContext", "Shared"]


class SampleContext(Evidence):
    """Evidence made of the fields that it had as a record, in their order; parts that are None are not there. Use ``of_samples``."""

    def __init__(
        self,
        kind: str,
        seed: int,
        samples: np.ndarray,
        real: np.ndarray | Callable[[], np.ndarray],
        reference_sha256: str,
        endpoints: np.ndarray | None = None,
        extract: Callable[[np.ndarray], np.ndarray] | None = None,
        extractor: dict[str, Any] | None = None,
        reference_features: np.ndarray | None = None,
        only_seed: bool = True,
        fresh_reference: bool = False,
        heldout: np.ndarray | None = None,
        mixture: Any = None,
        classify: Callable[[np.ndarray], np.ndarray | None] | None = None,
    ) -> None:
        points = real if callable(real) else lambda: real
        features = None if reference_features is None else lambda: reference_features
        parts: dict[str, Any] = {"samples": samples, "endpoints": endpoints, "heldout": heldout, "mixture": mixture}
        if extract is not None:
            parts |= {"extract": extract, "features": Part(lambda: extract(samples)), "extractor": extractor}
        if classify is not None:
            parts["logits"] = Part(lambda: classify(samples), optional=True)
        there = {name: part for name, part in parts.items() if part is not None}
        reference = Reference(points, lambda: reference_sha256, features, fresh=fresh_reference)
        super().__init__(there, (kind, "coordinates"), reference, seed, only_seed, kind)
