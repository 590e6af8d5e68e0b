"""The noise contract: sample ``i`` of evaluation seed ``s`` depends on ``(s, i)`` only.

Everything random in an evaluation is drawn on the CPU in fixed blocks of 256 from a generator seeded by ``(s, stream, i // 256)``. Batch
size, device, number of workers, interruption and resume therefore never change what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

BLOCK = 256
EVALUATION = 0x5EED
"""First word of every evaluation key: training and pair generation use keys without it."""
STREAMS = ("source", "label", "data", "reference", "bootstrap", "noise", "choice")
"""Independent purposes: changing how much one of them draws never shifts another."""


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of integers, mixed by NumPy's SeedSequence so that neighbouring keys are unrelated."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw(
    sample: Callable[[int, torch.Generator], Tensor], start: int, stop: int, seed: int, stream: str, *step: int
) -> Tensor:
    """Samples ``start`` to ``stop`` (exclusive) of a stream, whole blocks drawn and cut; a ``step`` makes it a stream of its own.

    Raises ValueError for an empty range or a stream that is not in :data:`STREAMS`.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown purpose {stream!r} of random numbers; allowed: {', '.join(STREAMS)}")
    if not 0 <= start < stop:
        raise ValueError(f"sample range must satisfy 0 <= start < stop, got {start}, {stop}")
    blocks = range(start // BLOCK, (stop - 1) // BLOCK + 1)
    drawn = torch.cat(
        [sample(BLOCK, generator(EVALUATION, seed, STREAMS.index(stream), block, *step)) for block in blocks]
    )
    offset = blocks.start * BLOCK
    return drawn[start - offset : stop - offset]


@dataclass(frozen=True)
class Draws:
    """Everything random that a sampler needs for rows ``first`` to ``stop`` of an evaluation seed.

    Row ``i`` of seed ``s`` depends on ``(s, purpose, step, i)`` only, whatever the batch, the device, the worker, or an interruption: blocks of
    256 rows are drawn on the CPU and copied.

    Attributes:
        seed: evaluation seed.
        first, stop: rows, ``stop`` exclusive.
        source: draws source points, ``(n, generator) -> (n, *shape)``.
        device: where everything drawn goes.
    """

    seed: int
    first: int
    stop: int
    source: Callable[[int, torch.Generator], Tensor]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return self.stop - self.first

    def start(self) -> Tensor:
        """Source points of the rows, (rows, *shape): those that every committed sample started from."""
        return draw(self.source, self.first, self.stop, self.seed, "source").to(self.device)

    def normal(self, shape: tuple[int, ...], step: int = 0, purpose: str = "noise") -> Tensor:
        """Standard normal noise of a step, (rows, *shape) float32. Steps and purposes are independent of each other."""
        return self._drawn(lambda n, random: torch.randn((n, *shape), generator=random), step, purpose)

    def uniform(self, shape: tuple[int, ...] = (), step: int = 0, purpose: str = "choice") -> Tensor:
        """Uniform numbers in [0, 1) of a step, (rows, *shape) float32."""
        return self._drawn(lambda n, random: torch.rand((n, *shape), generator=random), step, purpose)

    def rows(self, start: int, stop: int) -> Draws:
        """Those of a part of the rows, counted from the first of these. Raises ValueError for an empty part or one beyond them."""
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"rows {start} to {stop} are no part of {len(self)}")
        return replace(self, first=self.first + start, stop=self.first + stop)

    def _drawn(self, sample: Callable[[int, torch.Generator], Tensor], step: int, purpose: str) -> Tensor:
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        return draw(sample, self.first, self.stop, self.seed, purpose, step + 1).to(self.device)


class Given(Draws):
    """Draws whose source points are given; whatever else is drawn belongs to rows 0 to n of seed 0."""

    def __init__(self, points: Tensor) -> None:
        super().__init__(0, 0, len(points), lambda n, random: points[:n], points.device)
        object.__setattr__(self, "points", points)

    def start(self) -> Tensor:
        """The points."""
        return self.points  # type: ignore[attr-defined]

    def rows(self, start: int, stop: int) -> Draws:
        """Those of a part of the points; what else they draw starts at row 0 again. Raises ValueError for an empty part or one beyond them."""
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"rows {start} to {stop} are no part of {len(self)}")
        return Given(self.start()[start:stop])
