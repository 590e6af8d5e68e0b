"""Recipe -> entry folder. Resumable, and the same weights whether it was interrupted or not."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmbench.flows.flow import Flow
from fmbench.methods.base import BatchSource, Method
from fmbench.noise import generator
from fmbench.records.recipe import Recipe, Training, parse, require_closed
from fmbench.storage.files import check_writable
from fmbench.tasks.base import Task
from fmbench.training import checkpoint
from fmbench.training.claim import TEMPORARY, WORKSPACE, claim
from fmbench.training.processes import Processes, join, launch, launched
from fmbench.training.sharding import Sharded, check_rows
from fmbench.training.teacher import kept, state_hash
from fmbench.zoo.building import build, in_words, make_task, require_closed_net
from fmbench.zoo.catalogue import CHECKPOINT
from fmbench.zoo.code import method_class
from fmbench.zoo.entry import prove_saved, write_card, write_entry
from fmbench.zoo.resolve import load

__all__ = ["CHECKPOINT", "WORKSPACE", "Report", "Run", "learning_rate", "moving_average", "train"]
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
        teacher: Flow | None = None,
    ) -> None:
        config = recipe.train
        self.teacher = state_hash(teacher) if teacher is not None else ""
        self.recipe, self.method, self.step = recipe, method, 0
        self.seconds = 0.0
        self.saved = -1
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
        with in_words(f"{type(self.method).__name__} at step {self.step}"):
            batch = source(random).to(device)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                loss = self.method.loss(batch, random)
            value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"training loss became {value} at step {self.step}; lower train.lr or set train.clip")
        self.optimiser.zero_grad(set_to_none=True)
        with in_words(f"the gradient of {type(self.method).__name__} at step {self.step}"):
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
        checkpoint.write(
            path,
            {
                "recipe": self.recipe.identity(),
                "teacher": self.teacher,
                "step": self.step,
                "seconds": float(self.seconds),
                **self._states(),
                "optimiser": self.optimiser.state_dict(),
            },
        )
        self.saved = self.step

    def _states(self) -> dict[str, dict[str, Any]]:
        return {"method": self.method.state_dict(), "average": self.average.state_dict()}

    def require_finite(self) -> None:
        """Raises ValueError when a weight is not finite: the average keeps every infinity or NaN that ever was."""
        if not all(bool(weight.isfinite().all()) for weight in self.average.parameters()):
            raise ValueError(f"weights are no longer finite after step {self.step}; lower train.lr or set train.clip")

    def resume(self, path: Path, overwrite: bool = False) -> bool:
        """Continue from a checkpoint of the same recipe and teacher, of any device, if there is one.

        The dtype in which the weights will be stored may be another: nothing before the last step depends on it. Every field is checked
        before anything is changed. Raises ValueError in one line for a file that is no checkpoint of this network, and for one of another
        recipe or teacher, which ``overwrite`` ignores.
        """
        if not (path.exists() or path.is_symlink()):
            return False
        states = self._states()
        # AdamW holds two tensors for each of the method.
        content = checkpoint.read(path, checkpoint.largest(*states.values(), states["method"], states["method"]))
        if not any(content.get("recipe") == own for own in _but_for_storage(self.recipe)) or (
            content.get("teacher", "") != self.teacher
        ):
            if overwrite:
                return False
            raise ValueError(
                f"{path} is of another recipe or teacher; give another --out, or --overwrite to start from the first step"
            )
        checkpoint.require_run(path, content, states, self.optimiser, self.recipe.train.steps)
        self.step, self.seconds = content["step"], content["seconds"]
        self.method.load_state_dict(content["method"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.saved = self.step
        return True


def _but_for_storage(recipe: Recipe) -> set[str]:
    """Identities of the recipes that differ from this one in how the weights are stored, if at all."""
    return {
        dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, storage=storage)).identity()
        for storage in ("float32", "float16")
    }


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
    overwrite: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Train a recipe and write the entry folder ``out``: ``model.safetensors``, the resolved ``recipe.toml``, ``README.md``.

    What is finished in ``out``, or of another recipe, is replaced with ``overwrite`` only, and not before the last step. A checkpoint of
    the same recipe is continued, on whatever device it was made; steps are keyed by their number, so the final weights on one machine are
    the same with or without interruption. With ``max_steps`` the run stops early, leaves its checkpoint, and writes no weights.

    ``accumulate`` evaluates every batch in that many parts to save memory, ``processes`` shares it among that many (or among those that
    accelerate or torchrun started); neither changes losses or weights beyond rounding. ``clock`` gives seconds, ``checkpoint_seconds`` of
    which lie between checkpoints. Process 0 alone reports and writes.

    Raises ValueError in one line for a bad recipe or option, for a folder that is taken, for a state that cannot be saved (before the
    first step), for a closed recipe whose method builds another network, for whatever the method raises, for a batch smaller than its
    parts, and for a loss or weights that are not finite, in which case the last good checkpoint stays; PermissionError when ``out``
    cannot be written; ImportError for several processes without accelerate.
    """
    out = Path(out)
    _check_options(max_steps, checkpoint_seconds, accumulate, processes)
    parse({k: v for k, v in dataclasses.asdict(recipe).items() if v is not None}, "recipe")
    claim(recipe, out, overwrite)
    check_writable(out)
    check_rows(recipe.train.batch_size, max(processes, launched()), accumulate)
    if processes > 1 and launched() == 1:
        options = {"checkpoint_seconds": checkpoint_seconds, "accumulate": accumulate, "overwrite": overwrite}
        work = partial(train, recipe, out, device=device, clock=clock, max_steps=max_steps, **options)
        launch(work, processes, device, report)
        return out
    if processes not in (1, launched()):
        raise ValueError(f"processes {processes} inside a launcher of {launched()}; leave processes out there")
    group = join(device)
    if group is not None:
        device = group.device
    task, method, teacher = _prepare(recipe, out, device, group)
    run = Run(recipe, method.to(device).train(), accumulate, group, teacher)
    run.resume(out / CHECKPOINT, overwrite)
    if group is not None:
        group.agree(run.step)
    main = group is None or group.rank == 0
    with kept(teacher, out / WORKSPACE, getattr(method, "pairs", None), shown=main) as remembered:
        source = _batches(run, task, remembered)
    last = recipe.train.steps if max_steps is None else min(max_steps, recipe.train.steps)
    saving = Saving(out / CHECKPOINT if main else None, checkpoint_seconds, clock)
    _advance_to(last, run, partial(run.advance, source, device), saving, report if main else None)
    if main:
        _finish(run, out, device)
    if group is not None:
        group.wait()
    return out


def _batches(run: Run, task: Task, teacher: Flow | None) -> BatchSource:
    """Where the method of a run takes its batches from."""
    with in_words(f"the batches of {run.recipe.method['name']}"):
        return run.method.batches(task, teacher, run.recipe.train.batch_size)


def _check_options(max_steps: int | None, seconds: float, accumulate: int, processes: int) -> None:
    """Raise ValueError naming the first option that no training can have."""
    for name, value, least in (("max_steps", max_steps, 0), ("accumulate", accumulate, 1), ("processes", processes, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"checkpoint_seconds must be a number of at least 0, got {seconds!r}")


def _prepare(recipe: Recipe, out: Path, device: str, group: Processes | None) -> tuple[Task, Method, Flow | None]:
    """Task, method with its initial weights, and teacher. Data and teacher are fetched by process 0 before the others read them.

    The weight file of the initial weights is made and loaded again: what cannot be saved is refused here.
    """
    where = str(out / "recipe.toml")
    task = make_task(recipe.task, where)
    with in_words(where):
        kind = method_class(recipe.method["name"])
    require_closed(recipe, task, where)
    _check_teacher(recipe, kind)
    teacher = None if recipe.teacher is None else _teacher(recipe, recipe.teacher, device, group)
    if group is not None:
        group.first(lambda: task.target.sample(1, torch.Generator()))
    method = _seeded(recipe, lambda: build(recipe, task, kind, where))
    if not kind.trains or not any(True for _ in method.parameters()):
        raise ValueError(f"{recipe.method['name']} has nothing to train")
    if getattr(method, "pairs", 1) < 1:
        raise ValueError(f"[method] pairs must be at least 1, got {method.pairs}")
    if teacher is not None:
        try:
            method.initialise(teacher)
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["?"])[-1].strip()
            raise ValueError(f"the network of teacher {recipe.teacher} is not that of the recipe: {reason}") from None
    prove_saved(recipe, method, task, where)
    require_closed_net(recipe, method, task, where)
    return task, method, teacher


def _check_teacher(recipe: Recipe, kind: type[Method]) -> None:
    """Raise ValueError when a teacher is missing, is of no use, or would add to the budget of the closed division."""
    name = recipe.method["name"]
    if kind.needs_base and recipe.teacher is None:
        raise ValueError(f'{name} needs a teacher; set teacher = "{recipe.task}/entry" in the recipe or --teacher')
    if kind.needs_base and recipe.conditional:
        raise ValueError(f"{name} trains on pairs without labels; a conditional recipe needs another method")
    if recipe.teacher is not None and not kind.needs_base and recipe.division == "closed":
        raise ValueError(
            f"{name} needs no teacher, and its weights would add to the closed budget; "
            'leave teacher out, or set division = "open" to start from them'
        )


def _teacher(recipe: Recipe, name: str, device: str, group: Processes | None) -> Flow:
    loaded = load(name, device=device) if group is None else group.first(lambda: load(name, device=device))
    if loaded.task.name != recipe.task:
        raise ValueError(f"teacher {name} is of task {loaded.task.name}, the recipe of {recipe.task}")
    return loaded.method


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
    """Write the entry when all steps are done, then clear the checkpoint away, then write the card.

    Whatever goes wrong, or whenever it is killed, the steps are in the checkpoint or the weights beside the recipe that pins them.
    """
    if run.step < run.recipe.train.steps:
        return
    run.require_finite()
    if run.saved != run.step:
        run.save(out / CHECKPOINT)
    averaged = run.average.module
    assert isinstance(averaged, Method)
    write_entry(run.recipe, averaged, out, {"device": device, "seconds": run.seconds, **run.cut})
    for leftover in (CHECKPOINT, TEMPORARY):
        (out / leftover).unlink(missing_ok=True)
    shutil.rmtree(out / WORKSPACE, ignore_errors=True)
    try:
        write_card(out, type(averaged))
    except (ValueError, OSError) as error:
        again = f"fmbench card {out}" + (f" -m {name}" if ".py:" in (name := run.recipe.method["name"]) else "")
        raise ValueError(f"{error}; the entry in {out} is finished but for its card, which `{again}` writes") from error
