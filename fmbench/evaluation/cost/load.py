"""CPU load by other processes during a measurement."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
IDLE = (3, 4)
"""Places of idle and waiting-for-disk among the times of a CPU; stolen time of a virtual machine counts as used by others."""


@dataclass(frozen=True)
class Load:
    """A reading of the clocks, in seconds.

    Attributes:
        total, busy: elapsed and busy time of all CPUs together; None where the system does not report it.
        own: CPU time of this process.
    """

    total: float | None
    busy: float | None
    own: float

    def others(self, later: Load) -> float | None:
        """Share of the machine's CPU time between two readings that other processes took, 0 to 1; None when unknown."""
        if self.total is None or later.total is None or self.busy is None or later.busy is None:
            return None
        total = later.total - self.total
        if total <= 0:
            return None
        used = later.busy - self.busy - (later.own - self.own)
        return round(min(max(used / total, 0.0), 1.0), 3)


def system_load(path: Path = STAT) -> Load:
    """The present reading."""
    own = time.process_time()
    try:
        words = path.read_text().split("\n", 1)[0].split()
        times = [int(word) for word in words[1:9]]
    except (OSError, ValueError):
        return Load(None, None, own)
    if len(times) < 8 or words[0] != "cpu":
        return Load(None, None, own)
    ticks = os.sysconf("SC_CLK_TCK")
    total = sum(times)
    return Load(total / ticks, (total - sum(times[i] for i in IDLE)) / ticks, own)
