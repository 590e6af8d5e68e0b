"""Peak memory of one call: the allocator's own peak on a CUDA device, the resident high-water mark of the process on a CPU."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fmbench.execution.foreign import ForeignError

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGOTTEN = 0
"""Largest high-water mark that a reset has wiped, in bytes, so that `process_peak` still knows it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception or its cause reports that memory ran out: by type (torch, Python), or by the text of a backend's error."""
    if isinstance(error, ForeignError) and error.__cause__ is not None:
        return is_out_of_memory(error.__cause__)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("can't allocate memory", "out of memory", "not enough memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


def _status(field: str) -> int | None:
    """``VmRSS`` (resident now) or ``VmHWM`` (its high-water mark) in bytes; None where the kernel does not report it."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def _high_water() -> int:
    """Largest resident size since the start or the last reset, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or (peak if sys.platform == "darwin" else 1024 * peak)


def process_peak() -> int:
    """Largest resident size of this process so far in bytes, unaffected by resets of `peak_memory`."""
    return max(_FORGOTTEN, _high_water())


def _reset() -> bool:
    """Lower the high-water mark to what is resident now (Linux); False where the system does not allow it."""
    global _FORGOTTEN
    before = _high_water()
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    _FORGOTTEN = max(_FORGOTTEN, before)
    return True


def peak_memory(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Run ``call()`` once and return its peak memory.

    CUDA: ``peak`` is the most that torch's allocator had handed out at once, weights and inputs included, ``growth`` what of it came on
    top of what was handed out before, ``reserved`` the most the allocator held from the driver. The CUDA context, and memory that other
    libraries take past torch's allocator, are not seen. The device's peak statistics are reset.

    CPU: ``peak`` is the largest resident size of the whole process during the call, interpreter, libraries and other threads included;
    ``growth`` is what of it came on top of what was resident before. Pages that were reserved but never touched do not show, nor do
    pages that an allocator holds from earlier work and uses again: growth is a lower bound of what the call allocated. A first call
    also pays for what libraries load lazily, so call once before. Where the high-water mark cannot be lowered (``exact`` is False: not
    Linux, or a read-only /proc), growth and peak are None for a call that stays below an earlier peak, because they cannot be observed.

    Returns ``peak``, ``growth`` and ``reserved`` in bytes (None where not known), ``exact`` and ``source``, the name of the counter.
    """
    if device.type == "cuda":
        return _cuda_peak(call, device)
    exact = _reset()
    resident, before = _status("VmRSS"), _high_water()
    call()
    peak = _high_water()
    seen = exact or peak > before
    return {
        "peak": peak if seen else None,
        "growth": max(peak - (before if resident is None else resident), 0) if seen else None,
        "reserved": None,
        "exact": exact,
        "source": "resident high-water mark of the process",
    }


def _cuda_peak(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return {
        "peak": peak,
        "growth": peak - before,
        "reserved": torch.cuda.max_memory_reserved(device),
        "exact": True,
        "source": "CUDA caching allocator of torch",
    }
