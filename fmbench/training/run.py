"""Recipe -> entry folder. Resumable, and the same weights whether it was interrupted or not."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmbench.methods.base import Method
from fmbench.noise import generator
from fmbench.records.recipe import Recipe, Training, require_closed
from fmbench.registry import TASKS
from fmbench.storage.files import check_writable
from fmbench.storage.readers import first_line
from fmbench.tasks.base import Task
from fmbench.training.processes import Processes, join, launch, launched
from fmbench.training.sharding import Sharded, check_rows
from fmbench.training.teacher import kept, state_hash
from fmbench.zoo.entry import write_entry
from fmbench.zoo.resolve import build, load, method_class

CHECKPOINT = ".checkpoint.pt"
WORKSPACE = ".workspace"
"""Samples of the teacher, until the entry is written."""
Report = Callable[[int, float], None]
"""Called after every step with (steps done, loss)."""


def learning_rate(config: Training, step: int) -> float:
    """Factor on the peak learning rate at a step: linear warm-up, then cosine to 0 or constant."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return warm * (0.5 * (1 + math.cos(math.pi * step / config.steps)) if config.schedule == "cosine" else 1.0)


def _seeded(recipe: Recipe, make: Callable[[], Method]) -> Method:
    """Build with initial weights that depend on the recipe's seed only, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(recipe.train.seed, 0x1217).initial_seed())
        return make()


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving average for AveragedModel; the decay warms up as (1 + n) / (10 + n), so that short runs forget their start."""

    @torch.no_grad()
    def update(averaged: Any, current: Any, count: Any) -> None:
        n = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))  # pyright: ignore[reportPrivateImportUsage]

    return update


def _on_cpu(state: Any) -> Any:
    """A state dict with its tensors on the CPU, readable where there is no other device."""
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return state.cpu() if isinstance(state, torch.Tensor) else state


class Run:
    """The state of one training run: method, average, optimiser, step.

    ``accumulate`` and ``group`` say how batches are cut, which changes memory and speed and nothing else beyond rounding.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        accumulate: int = 1,
        group: Processes | None = None,
        teacher: Method | None = None,
    ) -> None:
        config = recipe.train
        self.teacher = state_hash(teacher) if teacher is not None else ""
        self.recipe, self.method, self.step = recipe, method, 0
        self.seconds = 0.0
        self.average = torch.optim.swa_utils.AveragedModel(method, multi_avg_fn=moving_average(config.ema))
        self.optimiser = torch.optim.AdamW(
            method.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        size = 1 if group is None else group.size
        self.cut = {k: v for k, v in (("accumulate", accumulate), ("processes", size)) if v > 1}
        # After the copy for the average, which keeps the plain network.
        self.sharded = Sharded(method.net, accumulate, group) if accumulate > 1 or group is not None else None

    def advance(self, source: Callable[[torch.Generator], Any], device: str) -> float:
        """One optimiser step; everything random in it is keyed by (seed, step). Raises ValueError when the loss is not finite."""
        config = self.recipe.train
        random = generator(config.seed, 1, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * learning_rate(config, self.step)
        batch = source(random).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = self.method.loss(batch, random)
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"training loss became {value} at step {self.step}; lower train.lr or set train.clip")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.sharded is not None:
            self.sharded.sum_gradients()
        if config.clip > 0:
            nn.utils.clip_grad_norm_(self.method.parameters(), config.clip)
        self.optimiser.step()
        self.average.update_parameters(self.method)
        self.step += 1
        return value

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically. Raises what :meth:`require_finite` raises, and then leaves the last one in place."""
        self.require_finite()
        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "recipe": self.recipe.identity(),
                "teacher": self.teacher,
                "step": self.step,
                "seconds": self.seconds,
                "method": _on_cpu(self.method.state_dict()),
                "average": _on_cpu(self.average.state_dict()),
                "optimiser": _on_cpu(self.optimiser.state_dict()),
            },
            temporary,
        )
        os.replace(temporary, path)

    def require_finite(self) -> None:
        """Raises ValueError when a weight is not finite: the average keeps every infinity or NaN that ever was."""
        if not all(bool(weight.isfinite().all()) for weight in self.average.parameters()):
            raise ValueError(f"weights are no longer finite after step {self.step}; lower train.lr or set train.clip")

    def resume(self, path: Path) -> bool:
        """Continue from a checkpoint of the same recipe and teacher, of any device; one of another is left alone and not used.

        Raises ValueError in one line for a file that is no checkpoint.
        """
        if not path.is_file():
            return False
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            made_for = (state["recipe"], state.get("teacher", ""))
        except Exception as error:
            # torch.load has many ways to fail on bytes that are not its own.
            reason = first_line(error)
            raise ValueError(f"{path} is damaged ({reason[:80]}); delete it to start from the first step") from error
        if made_for != (self.recipe.identity(), self.teacher):
            return False
        self.step, self.seconds = state["step"], state["seconds"]
        self.method.load_state_dict(state["method"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        return True


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    device: str = "cpu",
    max_steps: int | None = None,
    checkpoint_seconds: float = 60.0,
    report: Report | None = None,
    accumulate: int = 1,
    processes: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Train a recipe and write the entry folder ``out``: ``model.safetensors``, the resolved ``recipe.toml``, ``README.md``.

    A checkpoint in ``out`` of the same recipe is continued, on whatever device it was made; the steps are keyed by their number, so the
    final weights on one machine are the same with or without interruption. With ``max_steps`` the run stops early, leaves its
    checkpoint, and writes no weights.

    ``accumulate`` evaluates every batch in that many parts to save memory, ``processes`` shares it among that many processes (or among
    those that accelerate or torchrun started); neither changes the losses or weights beyond rounding. ``clock`` gives seconds; a
    checkpoint is written when ``checkpoint_seconds`` of them have passed. Process 0 alone reports and writes.

    Raises ValueError for a bad recipe, for a batch smaller than its parts, and for a loss or weights that are not finite, in which case
    the last good checkpoint stays; PermissionError when ``out`` cannot be written; ImportError for several processes without accelerate.
    """
    out = Path(out)
    check_writable(out)
    check_rows(recipe.train.batch_size, max(processes, launched()), accumulate)
    options = {"max_steps": max_steps, "checkpoint_seconds": checkpoint_seconds, "accumulate": accumulate}
    if processes > 1 and launched() == 1:
        launch(partial(train, recipe, out, device=device, clock=clock, **options), processes, device, report)
        return out
    if processes not in (1, launched()):
        raise ValueError(f"processes {processes} inside a launcher of {launched()}; leave processes out there")
    group = join(device)
    if group is not None:
        device = group.device
    task, method, teacher = _prepare(recipe, out, device, group)
    run = Run(recipe, method.to(device).train(), accumulate, group, teacher)
    run.resume(out / CHECKPOINT)
    if group is not None:
        group.agree(run.step)
    main = group is None or group.rank == 0
    with kept(teacher, out / WORKSPACE, getattr(method, "pairs", None), shown=main) as remembered:
        source = method.batches(task, remembered, recipe.train.batch_size)
    last = recipe.train.steps if max_steps is None else min(max_steps, recipe.train.steps)
    saving = Saving(out / CHECKPOINT if main else None, checkpoint_seconds, clock)
    _advance_to(last, run, partial(run.advance, source, device), saving, report if main else None)
    if main:
        _finish(run, out, device)
    if group is not None:
        group.wait()
    return out


def _prepare(recipe: Recipe, out: Path, device: str, group: Processes | None) -> tuple[Task, Method, Method | None]:
    """Task, method with its initial weights, and teacher. Data and teacher are fetched by process 0 before the others read them."""
    task: Task = TASKS.resolve(recipe.task)()
    kind = method_class(recipe.method["name"])
    require_closed(recipe, task, str(out / "recipe.toml"))
    if kind.needs_teacher and recipe.teacher is None:
        raise ValueError(
            f'{recipe.method["name"]} needs a teacher; set teacher = "{recipe.task}/entry" in the recipe or --teacher'
        )
    if kind.needs_teacher and recipe.conditional:
        raise ValueError(
            f"{recipe.method['name']} trains on pairs without labels; a conditional recipe needs another method"
        )
    teacher = None
    if recipe.teacher:
        name = recipe.teacher
        loaded = load(name, device=device) if group is None else group.first(lambda: load(name, device=device))
        if loaded.task.name != recipe.task:
            raise ValueError(f"teacher {recipe.teacher} is of task {loaded.task.name}, the recipe of {recipe.task}")
        teacher = loaded.method
    if group is not None:
        group.first(lambda: task.target.sample(1, torch.Generator()))
    method = _seeded(recipe, lambda: build(recipe, task, kind, str(out / "recipe.toml")))
    if not any(True for _ in method.parameters()):
        raise ValueError(f"{recipe.method['name']} has nothing to train")
    if getattr(method, "pairs", 1) < 1:
        raise ValueError(f"[method] pairs must be at least 1, got {method.pairs}")
    if teacher is not None:
        try:
            method.initialise(teacher)
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["?"])[-1].strip()
            raise ValueError(f"the network of teacher {recipe.teacher} is not that of the recipe: {reason}") from None
    return task, method, teacher


@dataclasses.dataclass(frozen=True)
class Saving:
    """When and where checkpoints are written: every ``seconds`` of ``clock``; never when ``path`` is None."""

    path: Path | None
    seconds: float
    clock: Callable[[], float]


def _advance_to(last: int, run: Run, advance: Callable[[], float], saving: Saving, report: Report | None) -> None:
    """Step until ``last``; keep the time, write checkpoints, report. A run that is stopped early leaves one."""
    began = saved = saving.clock()
    spent = run.seconds
    while run.step < last:
        loss = advance()
        now = saving.clock()
        run.seconds = spent + now - began
        if saving.path is not None and now - saved > saving.seconds:
            run.save(saving.path)
            saved = now
        if report is not None:
            report(run.step, loss)
    if saving.path is not None and run.step < run.recipe.train.steps:
        run.save(saving.path)


def _finish(run: Run, out: Path, device: str) -> None:
    """Write the entry when all steps are done, and clear the checkpoint away."""
    if run.step < run.recipe.train.steps:
        return
    run.require_finite()
    averaged = run.average.module
    assert isinstance(averaged, Method)
    write_entry(run.recipe, averaged, out, {"device": device, "seconds": run.seconds, **run.cut})
    for leftover in (out / CHECKPOINT, (out / CHECKPOINT).with_suffix(".tmp")):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(out / WORKSPACE, ignore_errors=True)
