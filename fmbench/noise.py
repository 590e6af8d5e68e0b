"""The noise contract: sample ``i`` of evaluation seed ``s`` depends on ``(s, i)`` only.

Everything random in an evaluation is drawn on the CPU in fixed blocks of 256 from a generator seeded by ``(s, stream, i // 256)``. Batch
size, device, number of workers, interruption and resume therefore never change what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BLOCK = 256
EVALUATION = 0x5EED
"""First word of every evaluation key: training and pair generation use keys without it."""
STREAMS = ("source", "label", "data", "reference", "bootstrap")
"""Independent purposes: changing how much one of them draws never shifts another."""


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of integers, mixed by NumPy's SeedSequence so that neighbouring keys are unrelated."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw(sample: Callable[[int, torch.Generator], Tensor], start: int, stop: int, seed: int, stream: str) -> Tensor:
    """Samples ``start`` to ``stop`` (exclusive) of a stream, whole blocks drawn and cut. Raises ValueError for an empty range."""
    if not 0 <= start < stop:
        raise ValueError(f"sample range must satisfy 0 <= start < stop, got {start}, {stop}")
    blocks = range(start // BLOCK, (stop - 1) // BLOCK + 1)
    drawn = torch.cat([sample(BLOCK, generator(EVALUATION, seed, STREAMS.index(stream), block)) for block in blocks])
    offset = blocks.start * BLOCK
    return drawn[start - offset : stop - offset]
