"""How two functions are compared: interleaved runs, the memory of a fresh process, growth with size.

A machine drifts (clock rate, neighbours, caches), so absolute seconds of two separate runs do not compare. Here the two
alternate, A B A B, every pair gives one ratio, and the ratio's median and range are reported beside both medians.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds on the wall, and processor seconds of all threads of the process (steady on a shared machine)."""
SHORTEST = 0.01
"""A timed run lasts at least this many seconds; faster functions are called several times."""


@dataclass(frozen=True)
class Comparison:
    """Seconds per call of both (medians) and theirs over ours: median, smallest and largest of the pairs' ratios."""

    ours: float
    theirs: float
    ratio: float
    least: float
    most: float


def _seconds(call: Callable[[], Any], clock: Callable[[], float], calls: int) -> float:
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def _calls(call: Callable[[], Any]) -> int:
    start = time.perf_counter()
    call()
    return max(1, math.ceil(SHORTEST / max(time.perf_counter() - start, 1e-7)))


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeat: int, clock: str = "wall") -> Comparison:
    """``repeat`` interleaved pairs after one unmeasured call of each. Raises ValueError for fewer than one pair."""
    if repeat < 1:
        raise ValueError(f"repeat must be at least 1, got {repeat}")
    counts = [_calls(call) for call in (ours, theirs)]
    pairs = np.array(
        [
            [_seconds(call, CLOCKS[clock], count) for call, count in zip((ours, theirs), counts, strict=True)]
            for _ in range(repeat)
        ]
    )
    ratios = pairs[:, 1] / pairs[:, 0]
    medians = np.median(pairs, axis=0)
    return Comparison(
        float(medians[0]), float(medians[1]), float(np.median(ratios)), float(ratios.min()), float(ratios.max())
    )


def _status_bytes(field: str) -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return 1024 * int(line.split()[1])
    return None


def _peak_bytes() -> int:
    """Largest resident size so far. Linux: VmHWM, since ``ru_maxrss`` of a child starts at the size of its parent."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def extra_bytes(call: Callable[[], Any], calls: int = 3) -> int:
    """How much the resident size of this process rises above where it stands while ``call`` runs, the most of ``calls``.

    The kernel may take cold pages of libraries away meanwhile, which hides part of a rise; not in every call.
    """
    rises = []
    for _ in range(calls):
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present size
        before = _peak_bytes()
        call()
        rises.append(_peak_bytes() - before)
    return max(rises)


def extra_bytes_in_a_fresh_process(command: Path, case: str, side: str, n: int, d: int) -> int | None:
    """:func:`extra_bytes` of one side of a case, by running ``command --memory-of``; None when that fails."""
    arguments = [sys.executable, str(command), "--memory-of", case, side, str(n), str(d)]
    # With glibc, blocks freed while the inputs were made would otherwise be reused unseen.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def exponent(sizes: list[int], seconds: list[float]) -> float | None:
    """Slope of log seconds over log size: 2 for quadratic growth. None for fewer than three different sizes."""
    if len(set(sizes)) < 3:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
