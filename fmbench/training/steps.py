"""The state of a training run: one optimiser step, and checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmbench.execution.state import state_hash
from fmbench.flows.flow import Flow
from fmbench.methods.base import Batch, Method
from fmbench.noise import generator
from fmbench.records.recipe import Recipe, Training
from fmbench.training import checkpoint
from fmbench.training.optimisers import make_optimiser, state_after_a_step
from fmbench.training.piecewise import Cut, Group
from fmbench.training.precision import precision_on
from fmbench.training.sharding import in_slices, require_called
from fmbench.zoo.building import in_words

Report = Callable[[int, float], None]
"""Called after every step with (steps done, loss)."""


def learning_rate(config: Training, step: int) -> float:
    """Factor on the peak learning rate at a step: linear warm-up, then cosine to 0 or constant."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return warm * (0.5 * (1 + math.cos(math.pi * step / config.steps)) if config.schedule == "cosine" else 1.0)


@contextmanager
def _keyed(seed: int, step: int, device: str) -> Iterator[None]:
    """Context that seeds torch's global generators, used by dropout and some losses, by seed and step, and restores them afterwards."""
    on_gpu = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        key = generator(seed, 2, step).initial_seed()
        torch.default_generator.manual_seed(key)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(key)
        yield


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
        group: Group | None = None,
        teacher: Flow | None = None,
    ) -> None:
        config = recipe.train
        self.teacher = state_hash(teacher) if teacher is not None else ""
        self.recipe, self.method, self.step = recipe, method, 0
        self.seconds = 0.0
        self.saved = -1
        self.average = torch.optim.swa_utils.AveragedModel(method, multi_avg_fn=moving_average(config.ema))
        self.optimiser = make_optimiser(config, method.parameters())
        size = 1 if group is None else group.size
        self.cut = {k: v for k, v in (("accumulate", accumulate), ("processes", size)) if v > 1}
        self.learner, self.networks = (
            in_slices(method, Cut(accumulate, group)) if accumulate > 1 or group is not None else (method, None)
        )

    def advance(self, source: Callable[[torch.Generator], Any], device: str) -> float:
        """One optimiser step; everything random in it is keyed by (seed, step). Raises ValueError when the loss is not finite."""
        config = self.recipe.train
        random = generator(config.seed, 1, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * learning_rate(config, self.step)
        name = type(self.method).__name__
        with in_words(f"{name} at step {self.step}"), _keyed(config.seed, self.step, device):
            batch = source(random).to(device)
            if isinstance(batch, Batch):
                batch = dataclasses.replace(batch, progress=self.step / config.steps)
            place = torch.device(device)
            low = precision_on(place, config.precision) == "bfloat16"
            with torch.autocast(place.type, torch.bfloat16, enabled=low):
                loss = self.learner.loss(batch, random)
            value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"training loss became {value} at step {self.step}; lower train.lr or set train.clip")
        if self.networks is not None:
            require_called(name, self.networks)
        self.optimiser.zero_grad(set_to_none=True)
        with in_words(f"the gradient of {name} at step {self.step}"):
            loss.backward()
        if config.clip > 0:
            nn.utils.clip_grad_norm_(self.method.parameters(), config.clip)
        with in_words(f"optimiser {config.optimiser} at step {self.step}"):
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
                "optimiser_name": self.recipe.train.optimiser,
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
        config, states = self.recipe.train, self._states()
        stepped = state_after_a_step(config, self.method.parameters())
        content = checkpoint.read(path, checkpoint.largest(*states.values(), stepped))
        if not any(content.get("recipe") == own for own in _but_for_storage(self.recipe)) or (
            content.get("teacher", "") != self.teacher
        ):
            if overwrite:
                return False
            raise ValueError(
                f"{path} is of another recipe or teacher; give another --out, or --overwrite to start from the first step"
            )
        expected = checkpoint.Expected(config.optimiser, self.optimiser.state_dict(), stepped)
        checkpoint.require_run(path, content, states, expected, config.steps)
        self.step, self.seconds = content["step"], content["seconds"]
        self.method.load_state_dict(content["method"])
        self.average.load_state_dict(content["average"])
        with in_words(f"optimiser {config.optimiser}"):
            self.optimiser.load_state_dict(content["optimiser"])
        self.saved = self.step
        return True


def _but_for_storage(recipe: Recipe) -> set[str]:
    """Identities of the recipes that differ from this one in how the weights are stored, if at all."""
    return {
        dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, storage=storage)).identity()
        for storage in ("float32", "float16")
    }


@dataclasses.dataclass(frozen=True)
class Saving:
    """When and where checkpoints are written: every ``seconds`` of ``clock``; never when ``path`` is None."""

    path: Path | None
    seconds: float
    clock: Callable[[], float]


def advance_to(last: int, run: Run, advance: Callable[[], float], saving: Saving, report: Report | None) -> None:
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
