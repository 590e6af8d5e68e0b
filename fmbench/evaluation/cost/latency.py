"""Latency and throughput of sampling one batch, on a monotonic wall clock, the device synchronised before every reading."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fmbench.evaluation.cost.energy import NvmlUnavailable, nvml
from fmbench.evaluation.cost.flops import is_compiled
from fmbench.evaluation.cost.load import Load, system_load
from fmbench.evaluation.cost.memory import is_out_of_memory
from fmbench.statistics.student import t95
from fmbench.storage.readers import first_line

WINDOW = 5
"""Number of calls whose median is compared with that of as many before them, to decide whether the warm-up is over."""
TOLERANCE = 0.05
"""Relative difference of the two medians below which the warm-up is over."""
ROUNDS = 5
"""Turns in which every job is timed; their medians make the interval."""
DIGITS = 5
"""Significant digits of a time in a record."""
TICK = 1e-9
"""Seconds below which no clock tells anything."""
WIDEST = 0.1
"""Half-width of the interval of the median, over the median, beyond which times are void."""
BUSIEST = 0.1
"""Share of the machine's CPU time that other processes may take while something is timed."""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class WarmUp:
    """The warm-up before the timed calls.

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


@dataclass(frozen=True)
class Job:
    """One thing to time.

    Attributes:
        make: prepares the inputs on the device and returns a call that samples one batch.
        device: what to synchronise.
        batch: samples per call.
        net: the network, whose dtype and compilation go into the record.
        around: what its calls run within, entered outside of the time that is measured.

    Raises ValueError for a batch below 1.
    """

    make: Callable[[], Callable[[], Any]]
    device: torch.device
    batch: int
    net: nn.Module | None = None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


@dataclass(frozen=True)
class Bounds:
    """How often calls are timed: between a least and a most number, until the seconds have passed.

    Raises ValueError for bounds that allow no measurement.
    """

    seconds: float
    least_warmup: int = 3
    most_warmup: int = 100
    least: int = 5
    most: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf"):
            raise ValueError(f"seconds must be 0 or more and finite, got {self.seconds}")
        pairs = (("warm-ups", self.least_warmup, self.most_warmup, 1), ("repeats", self.least, self.most, 2))
        for name, low, high, allowed in pairs:
            if not allowed <= low <= high:
                raise ValueError(f"{name} need {allowed} <= least <= most, got least {low} and most {high}")


class _Timing:
    """One job while it is timed: warmed up when made, then a few calls in every round."""

    def __init__(self, job: Job, bounds: Bounds, clock: Callable[[], float]) -> None:
        self.job, self.bounds, self.clock = job, bounds, clock
        self.rounds: list[list[float]] = []
        self.cpu = 0.0
        with job.around():
            self.call = job.make()
            synchronise(job.device)
            self.warmth = warm_up(self.timed, bounds.seconds, bounds.least_warmup, bounds.most_warmup)

    def timed(self) -> float:
        start = self.clock()
        self.call()
        synchronise(self.job.device)
        return self.clock() - start

    @property
    def times(self) -> list[float]:
        return [time for times in self.rounds for time in times]

    def round(self, share: float) -> None:
        """Calls until a share of the least number and of the seconds is reached."""
        done, spent, times = len(self.times), sum(self.times), []
        with self.job.around():
            before = time.process_time()
            while done + len(times) < self.bounds.most and (
                done + len(times) < self.bounds.least * share or spent + sum(times) < self.bounds.seconds * share
            ):
                times.append(self.timed())
            self.cpu += time.process_time() - before
        self.rounds.append(times)

    def record(self) -> dict[str, Any]:
        times, batch = self.times, self.job.batch
        low, high = median_interval(self.rounds)
        found = {**quantiles(times), "low": low, "high": high, "cpu": self.cpu / (len(times) * batch)}
        # No clock is good to more digits, and records hold many of them.
        short = {name: value and float(f"{value:.{DIGITS}g}") for name, value in found.items()}
        return {
            **short,
            "throughput": batch / max(short["p50"], TICK),
            "batch": batch,
            "repeats": len(times),
            "warmup": self.warmth.calls,
            "first_call": float(f"{self.warmth.first:.{DIGITS}g}"),
        }


def median_interval(rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % interval of the median of all times, from the medians of the rounds: Student t, widened to hold the median itself.

    Neighbouring calls share the other load of the machine, rounds are apart in time. One round gives the whole range.
    """
    times = [time for times in rounds for time in times]
    medians = np.array([np.median(times) for times in rounds if len(times)])
    value = float(np.median(times))
    if len(medians) < 2:
        return min(times), max(times)
    half = t95(len(medians) - 1) * float(medians.std(ddof=1)) / len(medians) ** 0.5
    centre = float(medians.mean())
    return min(value, max(centre - half, 0.0)), max(value, centre + half)


def void(record: Mapping[str, Any], others: float | None) -> str | None:
    """The reason why times must not be compared with others, None when they may be: see :data:`WIDEST` and :data:`BUSIEST`."""
    if others is not None and others > BUSIEST:
        return f"other processes took {others:.0%} of the machine meanwhile"
    width = (record["high"] - record["low"]) / 2
    if width > WIDEST * record["p50"]:
        return f"not stable: the median is {record['p50']:.3g} s within {width:.2g} s"
    return None


def measure_all(
    jobs: Sequence[Job],
    bounds: Bounds,
    *,
    clock: Callable[[], float] = time.perf_counter,
    load: Callable[[], Load] = system_load,
) -> list[dict[str, Any]]:
    """Time all jobs in turns, so that other load of the machine affects them all equally.

    Every job runs unmeasured until its time is stable, then all of them a fifth of their calls, five times over (:data:`ROUNDS`). Every call is
    followed by a synchronisation, whose wait counts.

    Returns for every job ``p50``, ``p95``, ``p99``, ``iqr`` in seconds per batch (`quantiles` says when None), ``low`` and ``high``, the
    interval of the median, ``throughput`` in samples/s at the median, ``cpu``, CPU seconds of this process per sample, ``batch``, ``repeats``,
    ``warmup`` (calls), ``first_call`` in seconds, ``others``, the share of the machine that other processes took (None when unknown), ``void``,
    why the times are not to be compared (or None), ``stable`` (nothing is void), ``clock``, and the `conditions` right after. A job that
    raises has only ``batch`` and ``error``, the exception; the others go on.
    """
    began, timings, failures = load(), {}, {}
    for index, job in enumerate(jobs):
        try:
            timings[index] = _Timing(job, bounds, clock)
        except Exception as error:  # of a model; what it is to mean is for the caller to say
            failures[index] = _released(error, job.device)
    for turn in range(ROUNDS):
        for index, timing in list(timings.items()):
            try:
                timing.round((turn + 1) / ROUNDS)
            except Exception as error:
                failures[index] = _released(error, timing.job.device)
                del timings[index]
    others = began.others(load())
    found: list[dict[str, Any]] = []
    for index, job in enumerate(jobs):
        if index in failures:
            found.append({"batch": job.batch, "error": failures[index]})
            continue
        record = timings[index].record()
        why = void(record, others)
        state = {"others": others, "void": why, "stable": why is None, "clock": clock_name(clock, job.device)}
        found.append({**record, **state, **conditions(job.device, job.net)})
    return found


def _released(error: Exception, device: torch.device) -> Exception:
    """The exception without its traceback, which keeps the tensors of the failed call alive."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return error


def measure_latency(
    sample: Callable[[], Any],
    device: torch.device,
    batch: int,
    seconds: float,
    *,
    net: nn.Module | None = None,
    **options: Any,
) -> dict[str, Any]:
    """:func:`measure_all` of one call that samples a batch; ``options`` are those of :class:`Bounds` and of :func:`measure_all`.

    Raises what the call raises, and ValueError for bounds or a batch size that allow no measurement.
    """
    limits = {field.name: options.pop(field.name) for field in fields(Bounds) if field.name in options}
    (found,) = measure_all([Job(lambda: sample, device, batch, net)], Bounds(seconds, **limits), **options)
    if "error" in found:
        raise found["error"]
    return found


def sweep(jobs: Sequence[Job], bounds: Bounds, **options: Any) -> list[dict[str, Any]]:
    """:func:`measure_all` of one thing at increasing batch sizes, ``options`` passed on.

    The first batch size that does not fit in memory ends the sweep with the record ``{"batch": ..., "failed": reason}``; the smaller ones stay.
    Any other exception is raised. Raises ValueError for batch sizes that are not increasing, because a failure would then not imply those
    after it.
    """
    batches = [job.batch for job in jobs]
    if not batches or any(b <= a for a, b in zip(batches, batches[1:], strict=False)):
        raise ValueError(f"batch sizes must be increasing and at least one, got {batches}")
    return fitting(measure_all(jobs, bounds, **options))


def fitting(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records up to the first batch size that did not fit in memory, which says so. Raises what else a job raised."""
    kept: list[dict[str, Any]] = []
    for record in records:
        error = record.get("error")
        if error is None:
            kept.append(record)
            continue
        if not is_out_of_memory(error):
            raise error
        return [*kept, {"batch": record["batch"], "failed": f"out of memory: {first_line(error)}"}]
    return kept


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
    """The system's name of the clock; on CUDA with the note that the device is synchronised."""
    known = clock is time.perf_counter
    name = time.get_clock_info("perf_counter").implementation if known else getattr(clock, "__name__", "custom")
    return f"{name}, device synchronised" if device.type == "cuda" else name


def conditions(device: torch.device, net: nn.Module | None = None) -> dict[str, Any]:
    """The conditions that a time depends on, beside the code.

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
    """The vendor's name of the device; for a CPU without one, the name reported by the system."""
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
    """Momentary clock in MHz, mean over the cores; None when the system does not report it."""
    found = [float(value) for value in _cpuinfo("cpu MHz", path)]
    return sum(found) / len(found) if found else None


def gpu_clock(device: torch.device) -> float | None:
    """Momentary clock of the multiprocessors in MHz; None when NVML does not report it."""
    try:
        with nvml(device) as (pynvml, handle):
            return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))
    except NvmlUnavailable:
        return None
