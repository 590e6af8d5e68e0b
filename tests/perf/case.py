"""What is compared: one metric of ours, the functions that compute the same number elsewhere, and at which sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sizes:
    """Sample counts (each at the first dimension) and dimensions (each at the last count)."""

    ns: tuple[int, ...]
    ds: tuple[int, ...]

    @property
    def points(self) -> list[tuple[int, int]]:
        """All (n, d), without repetition, the largest last."""
        return list(dict.fromkeys([(n, self.ds[0]) for n in self.ns] + [(self.ns[-1], d) for d in self.ds]))


@dataclass(frozen=True)
class Case:
    """One metric beside its peers.

    Attributes:
        make: inputs of a size, ``make(n, d)``, from a fixed seed; not timed.
        ours: the metric on these inputs.
        peers: name -> the same number by others. They import their packages when called.
        sizes: ``small`` (seconds) and ``medium`` (minutes).
    """

    make: Callable[[int, int], Any]
    ours: Callable[[Any], float]
    peers: dict[str, Callable[[Any], float]]
    sizes: dict[str, Sizes]

    def side(self, name: str) -> Callable[[Any], float]:
        """``ours`` or a peer by its name."""
        return self.ours if name == "ours" else self.peers[name]


def features(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (n, d) sets like features of a network: rectified Gaussians of power-law spectrum, float64, at most 0.8 apart."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    scale = np.arange(1, d + 1) ** -0.5
    sets = [np.maximum((rng.normal(size=(n, d)) * scale + shift) @ basis + 0.2, 0.0) for shift in (0.0, 0.8 / d**0.5)]
    return sets[0], sets[1]


def clouds(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping Gaussian clouds (n, d) of different width."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)), 0.7 * rng.normal(size=(n, d)) + 0.5
