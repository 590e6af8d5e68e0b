"""Energy per sample, from the energy counter of NVIDIA devices (NVML)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class NvmlUnavailable(RuntimeError):
    """NVML is not available for this device; the message is the reason in one line."""


@contextmanager
def nvml(device: torch.device) -> Iterator[tuple[Any, Any]]:
    """The module pynvml and NVML's handle of a CUDA device, found by its UUID, because ordinals differ under CUDA_VISIBLE_DEVICES.

    Raises NvmlUnavailable: not a CUDA device, pynvml is not installed, or NVML refuses (the reason, also from inside the ``with``).
    """
    if device.type != "cuda":
        raise NvmlUnavailable(f"NVML knows NVIDIA devices only, got device {device.type!r}")
    try:
        import pynvml
    except ImportError:
        raise NvmlUnavailable("NVML needs the package nvidia-ml-py, which is not installed") from None
    try:
        pynvml.nvmlInit()
        try:
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            yield pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid if "-" in uuid[:4] else f"GPU-{uuid}")
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(f"NVML refuses: {error}") from error


def energy(
    call: Callable[[], Any],
    device: torch.device,
    samples: int,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Joules per sample of ``call()``, which makes ``samples`` samples, repeated until ``seconds`` have passed, after one call unmeasured.

    The difference of nvmlDeviceGetTotalEnergyConsumption (millijoules since the driver was loaded, Volta and later) over the repeats:
    the whole board, idle draw and other processes on it included, the host not. The counter moves in steps of some tens of
    milliseconds, so the relative error is about one step over ``seconds``.

    Returns ``joules_per_sample`` and ``watts`` (mean power), ``seconds``, ``repeats``, ``samples`` (in all) and ``reason``, None; where energy
    cannot be measured ``joules_per_sample`` is None and ``reason`` says why in one line. What ``call`` raises passes through.
    Raises ValueError for samples < 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; give what one call makes")
    try:
        with nvml(device) as (pynvml, handle):
            # A device without the counter refuses here, before any work is done.
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            call()
            torch.cuda.synchronize(device)
            before, began, repeats = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), clock(), 0
            while repeats == 0 or clock() - began < seconds:
                call()
                torch.cuda.synchronize(device)
                repeats += 1
            after, passed = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), clock() - began
    except NvmlUnavailable as error:
        return {"joules_per_sample": None, "reason": str(error)}
    if after <= before:
        reason = f"the energy counter did not move in {passed:.3g} s; measure for longer"
        return {"joules_per_sample": None, "reason": reason}
    joules, made = (after - before) / 1000, repeats * samples
    return {
        "joules_per_sample": joules / made,
        "watts": joules / passed,
        "seconds": passed,
        "repeats": repeats,
        "samples": made,
        "reason": None,
    }
