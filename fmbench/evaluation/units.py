"""Units of work: the samples of one (model, task, sampler, seed, range of noise blocks), stored so that a killed run goes on.

Units lie below ``OUT/.units`` in a folder named by the fingerprint of everything that determines them, so a changed model, protocol
or task never meets stale samples; every file appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fmbench.storage.files import write_atomic


@dataclass(frozen=True)
class Unit:
    """Samples, float32 (n, *shape), and the network evaluations they took, rows by purpose."""

    samples: Tensor
    counts: dict[str, int]


def stored(path: Path, make: Callable[[], Unit]) -> Unit:
    """The unit in a file, or made now and written to it. A file that cannot be read as a unit is made again."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    if path.is_file():
        try:
            with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
                return Unit(file.get_tensor("samples"), json.loads(file.metadata()["counts"]))
        except (SafetensorError, KeyError, TypeError, ValueError):
            path.unlink()
    unit = make()
    write_atomic(path, save({"samples": unit.samples.contiguous()}, {"counts": json.dumps(unit.counts)}))
    return unit
