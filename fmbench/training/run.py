"""Recipe -> entry folder. Resumable, and the same weights whether it was interrupted or not."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fmbench.flows.flow import Flow
from fmbench.methods.base import Batch, BatchSource, Method
from fmbench.noise import generator
from fmbench.records.recipe import Recipe, parse, require_closed
from fmbench.registry import file_class
from fmbench.storage.files import check_writable
from fmbench.tasks.base import Task
from fmbench.training.base_samples import remembering
from fmbench.training.claim import TEMPORARY, WORKSPACE, claim
from fmbench.training.optimisers import check_optimiser
from fmbench.training.piecewise import check_rows
from fmbench.training.precision import precision_on
from fmbench.training.processes import Processes, join, launch, launched
from fmbench.training.steps import Report, Run, Saving, advance_to, learning_rate, moving_average
from fmbench.zoo.building import build, in_words, make_task, require_closed_net
from fmbench.zoo.catalogue import CHECKPOINT, open_folder
from fmbench.zoo.code import method_class
from fmbench.zoo.entry import prove_saved, write_card, write_entry
from fmbench.zoo.model import Model
from fmbench.zoo.resolve import resolve

__all__ = ["CHECKPOINT", "WORKSPACE", "Report", "Run", "learning_rate", "moving_average", "train"]


def _seeded(recipe: Recipe, make: Callable[[], Method]) -> Method:
    """Build with initial weights that depend on the recipe's seed only, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(recipe.train.seed, 0x1217).initial_seed())
        return make()


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
    first step), for a closed recipe whose method builds another network, for any error of the method, for a batch smaller than its
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
    flow = None if teacher is None else teacher.method
    run = Run(recipe, method.to(device).train(), accumulate, group, flow)
    run.resume(out / CHECKPOINT, overwrite)
    if group is not None:
        group.agree(run.step)
    main = group is None or group.rank == 0
    last = recipe.train.steps if max_steps is None else min(max_steps, recipe.train.steps)
    saving = Saving(out / CHECKPOINT if main else None, checkpoint_seconds, clock)
    with remembering(flow, out / WORKSPACE, shown=main) as base:
        source = _batches(run, task, base)
        advance_to(last, run, partial(run.advance, source, device), saving, report if main else None)
    if main:
        _finish(run, out, device, teacher)
    if group is not None:
        group.wait()
    return out


def _batches(run: Run, task: Task, teacher: Flow | None) -> BatchSource:
    """The source of batches for the method of a run."""
    where = f"the batches of {run.recipe.method['name']}"
    with in_words(where):
        source = run.method.batches(task, teacher, run.recipe.train.batch_size)
    return _labelled(source, where) if run.recipe.conditional else source


def _labelled(source: BatchSource, where: str) -> BatchSource:
    """The batches of a conditional recipe. They raise ValueError where they carry no labels: the network would never see one."""

    def checked(random: torch.Generator) -> Batch:
        batch = source(random)
        if isinstance(batch, Batch) and batch.labels is None:
            raise ValueError(f"{where} carry no labels, and the recipe is conditional; leave conditional out")
        return batch

    return checked


def _check_options(max_steps: int | None, seconds: float, accumulate: int, processes: int) -> None:
    """Raise ValueError naming the first option that no training can have."""
    for name, value, least in (("max_steps", max_steps, 0), ("accumulate", accumulate, 1), ("processes", processes, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"checkpoint_seconds must be a number of at least 0, got {seconds!r}")


def _prepare(recipe: Recipe, out: Path, device: str, group: Processes | None) -> tuple[Task, Method, Model | None]:
    """Task, method with its initial weights, and teacher. Data and teacher are fetched by process 0 before the others read them.

    The initial weights are written to bytes and loaded again, so that a state that cannot be saved is refused here.
    """
    where = str(out / "recipe.toml")
    task = make_task(recipe.task, where)
    with in_words(where):
        kind = method_class(recipe.method["name"])
    require_closed(recipe, task, where)
    check_optimiser(recipe.train, where)
    _check_teacher(recipe, kind)
    teacher = None if recipe.teacher is None else _teacher(recipe, recipe.teacher, device, group)
    if group is not None:
        group.first(lambda: task.target.sample(1, torch.Generator()))
    method = _seeded(recipe, lambda: build(recipe, task, kind, where))
    if not kind.trains or not any(True for _ in method.parameters()):
        raise ValueError(f"{recipe.method['name']} has nothing to train")
    if teacher is not None:
        try:
            method.initialise(teacher.method)
        except RuntimeError as error:
            raise ValueError(
                f"the network of teacher {recipe.teacher} is not that of the recipe: {_difference(recipe, teacher, error)}"
            ) from None
    prove_saved(recipe, method, task, where)
    require_closed_net(recipe, method, task, where)
    return task, method, teacher


def _check_teacher(recipe: Recipe, kind: type[Method]) -> None:
    """Raise ValueError when a teacher is missing, is of no use, or would add to the budget of the closed division."""
    name = recipe.method["name"]
    if kind.needs_base and recipe.teacher is None:
        raise ValueError(f'{name} needs a teacher; set teacher = "{recipe.task}/entry" in the recipe or --teacher')
    if recipe.teacher is not None and not kind.needs_base and recipe.division == "closed":
        raise ValueError(
            f"{name} needs no teacher, and its weights would add to the closed budget; "
            'leave teacher out, or set division = "open" to start from them'
        )


def _teacher(recipe: Recipe, name: str, device: str, group: Processes | None) -> Model:
    found = resolve(name)
    if found.task is not None and found.task != recipe.task:
        raise ValueError(f"teacher {name} is of task {found.task}, the recipe of {recipe.task}")
    return found.load(device) if group is None else group.first(lambda: found.load(device))


def _difference(recipe: Recipe, teacher: Model, error: RuntimeError) -> str:
    """The reason why the weights of a teacher do not fit, in words."""
    if recipe.conditional and not teacher.conditional:
        return "it takes no labels, and the recipe is conditional; name a conditional teacher"
    if teacher.conditional and not recipe.conditional:
        return "it takes labels; set conditional = true in the recipe or --conditional"
    return (str(error).splitlines() or ["?"])[-1].strip()


def _seen(recipe: Recipe | None) -> int:
    """Samples that a teacher was trained on, with those of its own teachers; 0 for one without a training."""
    if recipe is None or recipe.weights is None:
        return 0
    before = 0 if recipe.teacher is None else _seen(resolve(recipe.teacher).entry.recipe)
    return recipe.train.steps * recipe.train.batch_size + before


def _finish(run: Run, out: Path, device: str, teacher: Model | None) -> None:
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
    taught = {}
    if teacher is not None:
        taught = {
            "teacher_sha256": teacher.identity.get("weights_sha256") or "",
            "teacher_samples_seen": _seen(teacher.recipe),
        }
    precision = run.recipe.train.precision
    chosen = {"precision": precision_on(torch.device(device), precision)} if precision == "auto" else {}
    write_entry(run.recipe, averaged, out, {"device": device, "seconds": run.seconds, **run.cut, **chosen, **taught})
    for leftover in (CHECKPOINT, TEMPORARY):
        (out / leftover).unlink(missing_ok=True)
    shutil.rmtree(out / WORKSPACE, ignore_errors=True)
    try:
        write_card(open_folder(out), type(averaged))
    except (ValueError, OSError) as error:
        again = f"fmbench card {out}" + (f" -m {name}" if file_class(name := run.recipe.method["name"]) else "")
        raise ValueError(f"{error}; the entry in {out} is finished but for its card, which `{again}` writes") from error
