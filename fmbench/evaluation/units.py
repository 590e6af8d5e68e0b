"""Units of work: the samples of one (model, task, sampler, seed, range of noise blocks), stored so that a killed run goes on.

Units lie below ``OUT/.units`` in a folder named by the fingerprint of everything that determines them, so a changed model, protocol
or task never meets stale samples; every file appears whole or not at all, and is only used when it is, bit for bit, what was written
under its name in its folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fmbench.storage import tensors
from fmbench.storage.failures import writing

FOLDER = "folder"


@dataclass(frozen=True)
class Unit:
    """Samples, float32 (n, *shape), and the network evaluations they took, rows by purpose."""

    samples: Tensor
    counts: dict[str, int]


def _read(path: Path, shape: tuple[int, ...]) -> Unit | None:
    """The unit in a file; None when it is missing, damaged, from another folder, or does not hold float32 samples of the shape."""
    found = tensors.read(path)
    if found is None or found.facts.get(FOLDER) != path.parent.name or set(found.tensors) != {"samples"}:
        return None
    samples = found.tensors["samples"]
    if samples.dtype != torch.float32 or tuple(samples.shape) != shape:
        return None
    return Unit(samples, json.loads(found.facts["counts"]))


def stored(path: Path, shape: tuple[int, ...], make: Callable[[], Unit]) -> Unit:
    """The unit in a file, or one computed now and written to it.

    Args:
        path: the file; its folder is part of the unit's identity.
        shape: of its samples, (n, *shape of the task).
        make: computes the unit when the file does not hold exactly that.

    Raises OSError in one line when it cannot be written.
    """
    unit = _read(path, shape)
    if unit is None:
        unit = make()
        with writing(path.parent, "a unit of samples", "--out"):
            tensors.write(
                path, {"samples": unit.samples}, {"counts": json.dumps(unit.counts), FOLDER: path.parent.name}
            )
    return unit
