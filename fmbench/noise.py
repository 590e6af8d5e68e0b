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

from fmbench.transfers import sent

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
        source: draws source points, ``(n, generator) -> (n, *shape)``; not used where ``points`` are there.
        device: where everything drawn goes.
        points: the source points of the rows, when they were drawn before or are given.
    """

    seed: int
    first: int
    stop: int
    source: Callable[[int, torch.Generator], Tensor] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    points: Tensor | None = None

    @classmethod
    def given(cls, points: Tensor) -> Draws:
        """Draws that start at points of one's own, (n, *shape); whatever else is drawn belongs to rows 0 to n of seed 0."""
        return cls(0, 0, len(points), None, points.device, points)

    def __len__(self) -> int:
        return self.stop - self.first

    def start(self) -> Tensor:
        """Source points of the rows, (rows, *shape): those that every committed sample started from."""
        if self.points is not None:
            return self.points
        assert self.source is not None
        return sent(draw(self.source, self.first, self.stop, self.seed, "source"), self.device)

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
        points = None if self.points is None else self.points[start:stop]
        return replace(self, first=self.first + start, stop=self.first + stop, points=points)

    def drawn(self) -> Draws:
        """The same with its source points drawn now: parts of any size then cost nothing more."""
        return replace(self, points=self.start())

    def on(self, device: torch.device | str) -> Draws:
        """The same on another device, its source points a copy: what a sampler does to them must not reach others."""
        points = None if self.points is None else sent(self.points, device, copy=True)
        return replace(self, device=torch.device(device), points=points)

    def _drawn(self, sample: Callable[[int, torch.Generator], Tensor], step: int, purpose: str) -> Tensor:
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        return sent(draw(sample, self.first, self.stop, self.seed, purpose, step + 1), self.device)
