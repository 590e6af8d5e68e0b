"""Latency and throughput of sampling one batch, on a monotonic wall clock, the device synchronised before every reading."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fmbench.evaluation.cost.energy import NvmlUnavailable, nvml
from fmbench.evaluation.cost.flops import is_compiled
from fmbench.evaluation.cost.memory import is_out_of_memory
from fmbench.storage.readers import first_line

WINDOW = 5
"""Calls whose median is compared with that of as many before them, to tell whether the warm-up is over."""
TOLERANCE = 0.05
"""Relative difference of the two medians below which latency is called stable."""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class WarmUp:
    """What ran before the clock counted.

    Attributes:
        calls: how many.
        stable: whether the last two windows agreed; False when a limit of calls or of time came first.
        first: seconds of the very first call, which pays for lazy loading, autotuning and compilation.
    """

    calls: int
    stable: bool
    first: float


def synchronise(device: torch.device) -> None:
    """Wait until everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_stable(times: Sequence[float], window: int = WINDOW, tolerance: float = TOLERANCE) -> bool:
    """Whether the median of the last ``window`` times is within ``tolerance`` of the median of the ``window`` before."""
    if len(times) < 2 * window:
        return False
    before, last = np.median(times[-2 * window : -window]), np.median(times[-window:])
    return bool(abs(last - before) <= tolerance * before)


def warm_up(timed: Callable[[], float], seconds: float, least: int, most: int) -> WarmUp:
    """Call ``timed``, which returns its own duration, until `is_stable`, ``most`` calls or (after ``least``) ``seconds``."""
    times: list[float] = []
    while len(times) < most and not is_stable(times):
        if len(times) >= least and sum(times) >= seconds:
            break
        times.append(timed())
    return WarmUp(len(times), is_stable(times), times[0])


def quantiles(times: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 and the interquartile range of repeats, in their unit.

    A quantile q is None with fewer than 1 / (1 - q) repeats (2, 20, 100): it would be the maximum under another name. ``iqr`` needs 4.
    """
    n = len(times)
    found = {name: float(np.quantile(times, q)) if n * (1 - q) >= 1 - 1e-9 else None for name, q in QUANTILES.items()}
    quarters = np.quantile(times, [0.25, 0.75]) if n >= 4 else None
    return {**found, "iqr": None if quarters is None else float(quarters[1] - quarters[0])}


def measure_latency(
    sample: Callable[[], Any],
    device: torch.device,
    batch: int,
    seconds: float,
    *,
    net: nn.Module | None = None,
    least_warmup: int = 3,
    most_warmup: int = 100,
    least: int = 5,
    most: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time ``sample()`` (one batch, inputs on the device) ``least`` to ``most`` times, until ``seconds`` have passed.

    Before that it runs unmeasured until its time is stable, for at least ``least_warmup`` calls and for at most ``most_warmup`` calls or
    ``seconds``. Every call is followed by a synchronisation, whose wait counts.

    Args:
        sample: makes one batch.
        device: what to synchronise.
        batch: samples per call.
        seconds: budget of the warm-up and again of the measurement.
        net: the network, whose dtype and compilation go into the row.
        least_warmup, most_warmup, least, most: bounds of the calls.
        clock: monotonic seconds.

    Returns ``p50``, ``p95``, ``p99``, ``iqr`` in seconds per batch (`quantiles` says when None), ``throughput`` in samples/s at the median,
    ``batch``, ``repeats``, ``warmup`` (calls), ``stable``, ``first_call`` in seconds, ``clock``, and the `conditions` right after. Never compare
    rows whose device, threads, dtype or batch differ. Raises ValueError for a bound or batch that allows no measurement.
    """
    _check_bounds(batch, seconds, least_warmup, most_warmup, least, most)

    def timed() -> float:
        start = clock()
        sample()
        synchronise(device)
        return clock() - start

    synchronise(device)
    warmth = warm_up(timed, seconds, least_warmup, most_warmup)
    times: list[float] = []
    began = clock()
    while len(times) < least or (len(times) < most and clock() - began < seconds):
        times.append(timed())
    found = quantiles(times)
    return {
        **found,
        "throughput": batch / float(np.median(times)),
        "batch": batch,
        "repeats": len(times),
        "warmup": warmth.calls,
        "stable": warmth.stable,
        "first_call": warmth.first,
        "clock": clock_name(clock, device),
        **conditions(device, net),
    }


def _check_bounds(batch: int, seconds: float, least_warmup: int, most_warmup: int, least: int, most: int) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"seconds must be 0 or more and finite, got {seconds}")
    for name, low, high, allowed in (("warm-ups", least_warmup, most_warmup, 1), ("repeats", least, most, 2)):
        if not allowed <= low <= high:
            raise ValueError(f"{name} need {allowed} <= least <= most, got least {low} and most {high}")


def sweep(
    make: Callable[[int], Callable[[], Any]],
    device: torch.device,
    batches: Sequence[int],
    seconds: float,
    **options: Any,
) -> list[dict[str, Any]]:
    """`measure_latency` of ``make(batch)`` for every batch size, ``options`` passed on.

    The first batch size that does not fit in memory ends the sweep with the record ``{"batch": ..., "failed": reason}``; the smaller ones stay.
    Raises ValueError for batch sizes that are not increasing, for then a failure would say nothing about the ones after it.
    """
    if not batches or any(b <= a for a, b in zip(batches, batches[1:], strict=False)):
        raise ValueError(f"batch sizes must be increasing and at least one, got {list(batches)}")
    rows: list[dict[str, Any]] = []
    for batch in batches:
        try:
            rows.append(measure_latency(make(batch), device, batch, seconds, **options))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            rows.append({"batch": batch, "failed": f"out of memory: {first_line(error)}"})
            break
    if "failed" in rows[-1] and device.type == "cuda":
        # Only here, past the handler: the exception's traceback kept the tensors of the failed call alive.
        torch.cuda.empty_cache()
    return rows


def best_throughput(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``batch`` and ``throughput`` (samples/s) of the fastest row of a sweep, the smaller batch at equal speed.

    Raises ValueError when no row was measured.
    """
    measured = [row for row in rows if "failed" not in row]
    if not measured:
        raise ValueError(f"none of {len(rows)} batch sizes could be measured; start the sweep with a smaller one")
    best = min(measured, key=lambda row: (-row["throughput"], row["batch"]))
    return {"batch": best["batch"], "throughput": best["throughput"]}


def clock_name(clock: Callable[[], float], device: torch.device) -> str:
    """What the clock is, as the system calls it; on CUDA with the note that the device is waited for."""
    known = clock is time.perf_counter
    name = time.get_clock_info("perf_counter").implementation if known else getattr(clock, "__name__", "custom")
    return f"{name}, device synchronised" if device.type == "cuda" else name


def conditions(device: torch.device, net: nn.Module | None = None) -> dict[str, Any]:
    """What a time depends on beside the code.

    Returns ``device`` (its name), ``dtype`` (of the parameters of ``net``, of autocast when it is on, torch's default without either),
    ``compile`` ("torch.compile" when any part of ``net`` is compiled, else "none"), ``threads``, ``tf32`` (which of matmul and convolution
    may use it; None on a CPU) and ``clock_mhz`` (of the device at this moment, mean over cores on a CPU; None when unknown).
    """
    cuda = device.type == "cuda"
    return {
        "device": device_name(device),
        "dtype": _dtype(device, net),
        "compile": "torch.compile" if net is not None and is_compiled(net) else "none",
        "threads": torch.get_num_threads(),
        "tf32": _tf32() if cuda else None,
        "clock_mhz": gpu_clock(device) if cuda else processor_clock(),
    }


def device_name(device: torch.device) -> str:
    """What the maker calls the device; for a CPU what the system says where the maker's name is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return next(iter(_cpuinfo("model name")), platform.processor() or platform.machine())


def _dtype(device: torch.device, net: nn.Module | None) -> str:
    if torch.is_autocast_enabled(device.type):
        return f"autocast {torch.get_autocast_dtype(device.type)}".replace("torch.", "")
    used = {p.dtype for p in net.parameters() if p.is_floating_point()} if net is not None else set()
    return "+".join(sorted(str(d).removeprefix("torch.") for d in used or {torch.get_default_dtype()}))


def _tf32() -> str:
    # The older allow_tf32 raises once a program has used the newer setting; fp32_precision reflects both.
    settings = {"matmul": torch.backends.cuda.matmul, "convolution": torch.backends.cudnn.conv}  # type: ignore[attr-defined]
    return " and ".join(name for name, backend in settings.items() if backend.fp32_precision == "tf32") or "off"


def _cpuinfo(field: str, path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Values of a field, one per core; empty where the system has no such file or field."""
    try:
        lines = [line.partition(":") for line in path.read_text().splitlines()]
    except OSError:
        return []
    return [value.strip() for name, _, value in lines if name.strip() == field]


def processor_clock(path: Path = Path("/proc/cpuinfo")) -> float | None:
    """Momentary clock in MHz, mean over the cores; None when the system does not tell."""
    found = [float(value) for value in _cpuinfo("cpu MHz", path)]
    return sum(found) / len(found) if found else None


def gpu_clock(device: torch.device) -> float | None:
    """Momentary clock of the multiprocessors in MHz; None when NVML does not tell."""
    try:
        with nvml(device) as (pynvml, handle):
            return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))
    except NvmlUnavailable:
        return None
