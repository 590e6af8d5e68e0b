"""The real samples of one task after another, shared by everything in this process that is compared with them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from fmbench.features import Extractor
from fmbench.features.statistics import Statistics
from fmbench.features.store import reference_features
from fmbench.metrics.reference import Reference
from fmbench.shapes import Points
from fmbench.storage.files import fingerprint, sha256
from fmbench.tasks.base import Task

MOST = 16
"""References held at a time: one for every seed of a protocol."""


def reference(task: Task, seed: int, n: int, extractor: Extractor | None, device: str = "cpu") -> Reference:
    """Real samples of a task (all of a finite data set, else ``n`` draws of a seed) with features, cached on disk for Hub data sets."""

    def features() -> np.ndarray:
        assert extractor is not None
        stored = task.published_sha256 is not None
        return reference_features(task, extractor) if stored else extractor.features(task.real(n, seed))

    made = Reference(
        lambda: task.space.flatten(task.real(n, seed)),
        lambda: task.published_sha256 or sha256(made.points.astype(np.float32)),
        None if extractor is None else features,
        fresh=task.fresh,
        device=device,
    )
    return made


def stated(statistics: Statistics) -> Reference:
    """A reference that consists of the mean and covariance of its features only."""
    return Reference(None, lambda: statistics.sha256, moments=lambda: statistics)


def check_width(points: Points, extractor: Extractor, statistics: Statistics) -> None:
    """Raise ValueError, before features are computed, when statistics and extractor differ in their number of features."""
    width = extractor.features(points[:1]).shape[1]
    if width != len(statistics.mean):
        raise ValueError(
            f"{statistics.origin} holds statistics of {len(statistics.mean)} features, and {extractor.name} gives {width}; "
            "name the extractor that they were made with"
        )


class References:
    """Cache of the last :data:`MOST` references of one task; a run goes task by task, so only the present one is used again."""

    def __init__(self) -> None:
        # With the target, so that its address stays its own for as long as it stands for it.
        self.held: OrderedDict[tuple[Any, ...], tuple[Any, Reference]] = OrderedDict()

    def of(self, task: Task, seed: int, n: int, extractor: Extractor | None, device: str = "cpu") -> Reference:
        """The reference of a task, seed, number of draws and extractor, for an evaluation on a device."""
        pinned = None if extractor is None else (fingerprint(extractor.identity), str(extractor.device))
        whose = (task.name, task.version, id(task.target))
        key = (*whose, seed, n, pinned, device)
        if self.held and next(iter(self.held))[:3] != whose:
            self.held.clear()
        if key not in self.held:
            self.held[key] = task.target, reference(task, seed, n, extractor, device)
            if len(self.held) > MOST:
                self.held.popitem(last=False)
        self.held.move_to_end(key)
        return self.held[key][1]


REFERENCES = References()
