"""The conformance suite, which checks a method before training. ``fmbench check`` runs it; so can any test suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from fmbench.execution.foreign import ForeignError, foreign
from fmbench.methods.base import Method
from fmbench.noise import Draws, draw, generator
from fmbench.records.recipe import Recipe, closed
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
from fmbench.tasks.base import Task
from fmbench.zoo.building import build
from fmbench.zoo.code import method_class
from fmbench.zoo.entry import prove_saved
from fmbench.zoo.saving import from_bytes, restore
from fmbench.zoo.trial import ROWS, TOLERANCE, Subject, audited, cheap, items


@dataclass(frozen=True)
class Check:
    """Outcome of one check: ``error`` is None when it passed, else one line."""

    name: str
    error: str | None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _loss(method: Method, task: Task) -> None:
    method.train()
    batch = method.batches(task, None, 32)(generator(1))
    before = torch.random.get_rng_state()
    loss = method.loss(batch, generator(2))
    _require(loss.ndim == 0 and bool(loss.isfinite()), f"loss() must return a finite scalar, got {loss}")
    _require(
        torch.equal(before, torch.random.get_rng_state()),
        "loss() draws from the global generator; use the one it is given",
    )
    again = method.loss(batch, generator(2))
    _require(bool(loss.detach() == again.detach()), "loss() is not determined by the batch and the generator")
    loss.backward()
    without = [name for name, p in method.named_parameters() if p.grad is None]
    _require(not without, f"parameters without gradient: {', '.join(without[:3])}")
    method.eval().zero_grad()


def _state(recipe: Recipe, method: Method, task: Task, noise: torch.Tensor, sampler: Sampler) -> None:
    data = prove_saved(recipe, method, task, "the weight file")
    first, second = (build(recipe, task, type(method), "the weight file") for _ in range(2))
    for copy in (first, second):
        restore(copy, from_bytes(data, "the weight file"), recipe.train.storage, "the weight file")
    # What the storage dtype does to the weights is declared, so the two compared have both been through the file.
    gap = float(
        (first.eval().sample(Draws.given(noise), sampler) - second.eval().sample(Draws.given(noise), sampler))
        .abs()
        .max()
    )
    _require(gap == 0, f"state_dict() does not hold the whole model: a reloaded copy samples {gap:.2g} apart")


def _diagnostics(method: Method, task: Task) -> None:
    for name, value in method.diagnostics(task).items():
        _require(math.isfinite(float(value)), f"diagnostics() must be finite numbers, got {name} = {value}")


def _checks(spec: str, task_name: str) -> Iterator[tuple[str, Callable[[], None]]]:
    task = TASKS.resolve(task_name)()
    kind = method_class(spec)
    recipe = closed(task, spec)
    method = build(recipe, task, kind, spec).eval()
    noise = draw(method.source(task).sample, 0, ROWS, 0, "source")
    sampler = cheap(method)[0]
    tried = Subject(method, noise, None, sampler, TOLERANCE[torch.float32], task.shape)
    yield "evaluations: all of them counted", lambda: audited(tried)
    for name, call in items(method):
        yield name, lambda call=call: call(tried)
    if any(True for _ in method.parameters()):
        if not kind.needs_base:
            yield "loss: finite, differentiable, seeded", lambda: _loss(method, task)
        yield "state: saved and reloaded", lambda: _state(recipe, method, task, noise, sampler)
        yield "diagnostics: numbers", lambda: _diagnostics(method, task)


def check_method(spec: str, task: str = "gaussian-moons") -> list[Check]:
    """Run every check that applies to the method ``spec`` (a registered name or ``file.py:Class``) on a task.

    Later checks run even when earlier ones fail; the items that sample are those of the :mod:`~fmbench.zoo.trial` that every model passes
    before it is evaluated. Raises what building the method raises.
    """
    outcomes = []
    for name, call in _checks(spec, task):
        error = None
        try:
            with torch.set_grad_enabled(name.startswith("loss")), foreign():
                call()
        except ForeignError as failure:
            error = str(failure)
        outcomes.append(Check(name, error))
    return outcomes
