"""Cost of running a model: operations, memory and energy of one batch. Its latency is measured in :mod:`fmbench.evaluation.timing`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from fmbench.evaluation.cost.energy import energy
from fmbench.evaluation.cost.flops import flops_per_call, work_per_call
from fmbench.evaluation.cost.memory import peak_memory
from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition
from fmbench.zoo.model import Model, device_of, evaluating

FEW = 2
"""Samples on which operations are counted: their number per sample does not depend on it."""

PARTS = (
    "parameters", "batch", "sampler", "flops_per_evaluation", "flops_per_sample", "flops_uncounted", "memory", "energy", "reason",
)  # fmt: skip
"""Parts of the cost of a model, in the order of result files."""


def one_batch(model: Model, sampler: Sampler, size: int) -> Callable[[], Any]:
    """A call that samples the first ``size`` noises of seed 0, inputs on the device."""
    device = device_of(model.method)
    draws, labels = model.draws(0, size, 0).drawn().on(device), model.labels(0, size, 0)
    cond = None if labels is None else Condition(labels.to(device))
    return lambda: model.method.sample(draws, sampler, cond)


def sampler_mflop(model: Model, sampler: Sampler, nfe: float) -> float | None:
    """Millions of floating-point operations per sample of a sampler that takes ``nfe`` evaluations of all purposes; None where it fails.

    Counted on :data:`FEW` noises. A solver that chooses its steps may take others there: its operations are brought to ``nfe``.
    """
    try:
        with foreign(), isolated(), evaluating(model.method):
            ndim = model.draws(0, 1, 0).start().ndim
            work = work_per_call(model.method, model.method.networks(), one_batch(model, sampler, FEW), FEW, ndim)
    except ForeignError:
        return None
    return work.flops * (nfe / work.evaluations if work.evaluations else 1.0) / 1e6


def model_cost(model: Model, sampler: Sampler, batch: int) -> dict[str, Any]:
    """Parameters, FLOPs of one network evaluation, peak memory and energy of a batch of ``batch`` samples.

    Parts that cannot be measured are left out, with the reason in ``reason``; the others are still measured.
    """
    found: dict[str, Any] = {"parameters": model.parameters, "batch": batch, "sampler": sampler.label}
    reasons: list[str] = []

    def part(measure: Callable[[], dict[str, Any]]) -> None:
        try:
            with foreign(), isolated(), torch.no_grad(), evaluating(model.method):
                found.update(measure())
        except ForeignError as error:
            reasons.append(str(error))

    device = device_of(model.method)

    def memory() -> dict[str, Any]:
        call = one_batch(model, sampler, batch)
        call()
        return {"memory": peak_memory(call, device)}

    def operations() -> dict[str, Any]:
        flops = dataclasses.asdict(
            flops_per_call(model.method.networks()["network"], one_batch(model, sampler, batch), batch)
        )
        return {
            "flops_per_evaluation": flops["per_evaluation"],
            "flops_per_sample": flops["per_sample"],
            "flops_uncounted": list(flops["uncounted"]),
        }

    # Memory first: torch's counter stays loaded and would pass for the model's.
    for measure in (memory, operations, lambda: {"energy": energy(one_batch(model, sampler, batch), device, batch)}):
        part(measure)
    if reasons:
        found["reason"] = "; ".join(dict.fromkeys(reasons))
    return {key: found[key] for key in PARTS if key in found}
