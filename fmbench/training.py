"""Recipe -> entry folder. Resumable, and the same weights whether it was interrupted or not."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fmbench
from fmbench import catalogue
from fmbench.files import check_writable, sha256, write_atomic
from fmbench.methods.base import Method
from fmbench.model import build, load, method_class
from fmbench.noise import generator
from fmbench.recipe import Recipe, Training, Weights
from fmbench.registry import TASKS

CHECKPOINT = ".checkpoint.pt"
WEIGHTS = "model.safetensors"
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
    """The state of one training run: method, average, optimiser, step."""

    def __init__(self, recipe: Recipe, method: Method) -> None:
        config = recipe.train
        self.recipe, self.method, self.step = recipe, method, 0
        self.seconds = 0.0
        self.average = torch.optim.swa_utils.AveragedModel(method, multi_avg_fn=moving_average(config.ema))
        self.optimiser = torch.optim.AdamW(
            method.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )

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
        if config.clip > 0:
            nn.utils.clip_grad_norm_(self.method.parameters(), config.clip)
        self.optimiser.step()
        self.average.update_parameters(self.method)
        self.step += 1
        return value

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "recipe": self.recipe.identity(),
                "step": self.step,
                "seconds": self.seconds,
                "method": self.method.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            temporary,
        )
        os.replace(temporary, path)

    def resume(self, path: Path, device: str) -> bool:
        """Continue from a checkpoint of the same recipe; one of another recipe is left alone and not used."""
        if not path.is_file():
            return False
        state = torch.load(path, map_location=device, weights_only=True)
        if state["recipe"] != self.recipe.identity():
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
) -> Path:
    """Train a recipe and write the entry folder ``out``: ``model.safetensors``, the resolved ``recipe.toml``, ``README.md``.

    A checkpoint in ``out`` of the same recipe is continued; the steps are keyed by their number, so the final weights on one machine are
    the same with or without interruption. With ``max_steps`` the run stops early, leaves its checkpoint, and writes no weights.

    Raises ValueError for a bad recipe or a loss that is not finite, PermissionError when ``out`` cannot be written.
    """
    out = Path(out)
    check_writable(out)
    task = TASKS.resolve(recipe.task)()
    kind = method_class(recipe.method["name"])
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
        loaded = load(recipe.teacher, device=device)
        if loaded.task.name != recipe.task:
            raise ValueError(f"teacher {recipe.teacher} is of task {loaded.task.name}, the recipe of {recipe.task}")
        teacher = loaded.method
    method = _seeded(recipe, lambda: build(recipe, task, kind, str(out / "recipe.toml")))
    if not any(True for _ in method.parameters()):
        raise ValueError(f"{recipe.method['name']} has nothing to train")
    if teacher is not None:
        method.initialise(teacher)
    run = Run(recipe, method.to(device).train())
    checkpoint = out / CHECKPOINT
    run.resume(checkpoint, device)
    source = method.batches(task, teacher, recipe.train.batch_size)
    last = recipe.train.steps if max_steps is None else min(max_steps, recipe.train.steps)
    began = saved = time.monotonic()
    spent, loss = run.seconds, math.nan
    while run.step < last:
        loss = run.advance(source, device)
        now = time.monotonic()
        run.seconds = spent + now - began
        if now - saved > checkpoint_seconds:
            run.save(checkpoint)
            saved = now
        if report is not None:
            report(run.step, loss)
    if run.step < recipe.train.steps:
        run.save(checkpoint)
        return out
    write_entry(recipe, run, out, device)
    for leftover in (checkpoint, checkpoint.with_suffix(".tmp")):
        leftover.unlink(missing_ok=True)
    return out


def write_entry(recipe: Recipe, run: Run, out: Path, device: str) -> None:
    """Write weights, then the recipe that pins them, then the card."""
    from safetensors.torch import save as to_safetensors

    dtype = getattr(torch, recipe.train.storage)
    state = {k: v.detach().cpu().to(dtype).contiguous() for k, v in run.average.module.state_dict().items()}
    data = to_safetensors(state)
    write_atomic(out / WEIGHTS, data)
    parameters = sum(v.numel() for v in state.values())
    method = run.average.module
    assert isinstance(method, Method)
    made = {
        "fmbench": fmbench.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "samples_seen": recipe.train.steps * recipe.train.batch_size,
        "seconds": round(run.seconds, 1),
        "threads": torch.get_num_threads(),
        **method.diagnostics(TASKS.resolve(recipe.task)()),
    }
    if recipe.teacher:
        teacher = catalogue.find(recipe.teacher).recipe.weights
        made["teacher_sha256"] = teacher.sha256 if teacher else ""
    finished = dataclasses.replace(recipe, weights=Weights(WEIGHTS, sha256(data), len(data), parameters), made=made)
    finished.save(out / "recipe.toml")
    write_atomic(out / "README.md", card(finished, out.resolve().name))


def card(recipe: Recipe, entry: str) -> str:
    """The Hub model card: YAML metadata and what a stranger needs to know."""
    from huggingface_hub import ModelCardData

    assert recipe.weights is not None
    metadata = ModelCardData(
        license=recipe.license,
        library_name="fmbench",
        tags=["flow-matching", "generative", recipe.task, recipe.method["name"].rpartition(":")[2]],
    )
    name = f"{recipe.task}/{entry}"
    kind = method_class(recipe.method["name"])
    settings = ", ".join(f"{k} {v}" for k, v in recipe.method.items() if k != "name") or "defaults"
    teacher = f"\n- teacher: `{recipe.teacher}` (initial weights and pairs)" if recipe.teacher else ""
    use = (
        ""
        if recipe.division == "tool"
        else f"""
```python
import fmbench
model = fmbench.load("{name}")
x = model.sample(64, seed=0{"" if kind.steps_allowed else ', solver="euler", steps=32'})
```
"""
    )
    figures = "".join(
        f"\n- {k.replace('_', ' ')}: {v}" for k, v in recipe.made.items() if isinstance(v, float) and k != "seconds"
    )
    title = kind.summary[:1].upper() + kind.summary[1:] + (f" ({kind.reference})" if kind.reference else "")
    network = ", ".join(f"{k} {v}" for k, v in recipe.net.items())
    budget = f"{recipe.train.steps:,} steps of {recipe.train.batch_size} = {recipe.made['samples_seen']:,} samples seen"
    return f"""---
{metadata.to_yaml()}
---
# {name}

{title}. An entry of the fmbench zoo, made by `fmbench train` from the `recipe.toml` beside this file;
measured results are on the leaderboard, not here.
{use}
- task: `{recipe.task}`, division: {recipe.division}{", class-conditional" if recipe.conditional else ""}
- method: `{recipe.method["name"]}` ({settings})
- network: {network}; {recipe.weights.parameters:,} parameters, stored as {recipe.train.storage}
- training: {budget}, {recipe.made["seconds"]} s on {recipe.made["device"]}{teacher}
- weights: `{recipe.weights.file}`, SHA-256 `{recipe.weights.sha256}`{figures}
"""
