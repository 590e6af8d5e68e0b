"""Latency and throughput of sampling one batch, on a monotonic wall clock, the device synchronised before every reading."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def synchronise(device: torch.device) -> None:
    """Wait until everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_latency(
    sample: Callable[[], Any],
    device: torch.device,
    batch: int,
    seconds: float,
    warmup: int = 3,
    least: int = 5,
    most: int = 200,
) -> dict[str, Any]:
    """Time ``sample()`` (one batch, inputs on the device) ``least`` to ``most`` times, until ``seconds`` have passed.

    Returns p50 and p95 in seconds per batch, throughput in samples/s at the median, and the conditions. Never compare rows whose device,
    threads, dtype or batch differ.
    """
    for _ in range(warmup):
        sample()
    synchronise(device)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or (len(times) < most and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        sample()
        synchronise(device)
        times.append(time.perf_counter() - start)
    p50, p95 = (float(q) for q in np.percentile(times, [50, 95]))
    return {
        "p50": p50,
        "p95": p95,
        "throughput": batch / p50,
        "batch": batch,
        "repeats": len(times),
        "warmup": warmup,
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "compile": "none",
    }
