"""Measurement of time by phase, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by phase, on a monotonic clock. A phase inside another stops the outer one meanwhile, so that no second counts twice.

    Attributes:
        seconds: by phase, in the order in which they were first entered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._open: list[str] = []
        self.seconds: dict[str, float] = {}

    def _turn(self) -> None:
        """Add the time since the last turn to the innermost phase."""
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._last
        self._last = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside as ``name``, also when it ends with an exception."""
        self._turn()
        self._open.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    @property
    def total(self) -> float:
        """Seconds since the stopwatch was created, inside and between phases."""
        return self._clock() - self._began
