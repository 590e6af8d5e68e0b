"""What a model costs to run: latency per batch size and sampler, operations, memory and energy of one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fmbench.evaluation.cost.energy import energy
from fmbench.evaluation.cost.flops import flops_per_call
from fmbench.evaluation.cost.latency import best_throughput, sweep
from fmbench.evaluation.cost.memory import peak_memory
from fmbench.records.sampler import Sampler
from fmbench.zoo.model import Model, device_of

PER_BATCH = ("batch", "p50", "p95", "p99", "iqr", "throughput", "repeats", "warmup", "stable", "failed")
"""What is kept for every batch size; the conditions are the same for all."""


def _batch(model: Model, sampler: Sampler, size: int) -> Callable[[], Any]:
    """A call that samples the first ``size`` noises of seed 0, inputs on the device."""
    device = device_of(model.method)
    noise, labels = model.noise(0, size, 0).to(device), model.labels(0, size, 0)
    labels = None if labels is None else labels.to(device)
    return lambda: model.method.sample(noise, sampler, labels)


def sampler_latency(model: Model, sampler: Sampler, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Latency of one sampler at every batch size of ``settings`` (``batches``, ``seconds``).

    The largest batch size that fits stands at the top with its conditions, all of them are in ``batches``, and ``best`` is the batch size
    of the highest throughput. Raises ValueError when not even the smallest could be measured.
    """
    device = device_of(model.method)
    with torch.no_grad():
        rows = sweep(
            lambda size: _batch(model, sampler, size),
            device,
            settings["batches"],
            settings["seconds"],
            net=model.method.net,
        )
    best = best_throughput(rows)
    measured = [row for row in rows if "failed" not in row]
    short = [{key: row[key] for key in PER_BATCH if key in row} for row in rows]
    return {**measured[-1], "best": best, "batches": short}


def model_cost(model: Model, sampler: Sampler, batch: int) -> dict[str, Any]:
    """Parameters, FLOPs of one network evaluation, peak memory and energy of a batch of ``batch`` samples."""
    device, call = device_of(model.method), _batch(model, sampler, batch)
    with torch.no_grad():
        call()
        # Memory first: torch's counter stays loaded and would pass for the model's.
        memory = peak_memory(call, device)
        flops = dataclasses.asdict(flops_per_call(model.method.net, call, batch))
        joules = energy(call, device, batch)
    return {
        "parameters": model.parameters,
        "batch": batch,
        "sampler": sampler.label,
        "flops_per_evaluation": flops["per_evaluation"],
        "flops_per_sample": flops["per_sample"],
        "flops_uncounted": list(flops["uncounted"]),
        "memory": memory,
        "energy": joules,
    }
