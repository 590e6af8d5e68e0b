"""A recipe: everything that determines an entry's weights, as frozen dataclasses and as TOML. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmbench.records import foreign
from fmbench.records.names import check_name_in
from fmbench.records.pins import (
    Replicate,
    Weights,
    check_replicates,
    check_weights,
    read_replicates,
)
from fmbench.records.tables import check_table, from_table, matches, parameters_of, require_finite, shown
from fmbench.storage.files import fingerprint, write_atomic
from fmbench.storage.readers import read_toml

__all__ = [
    "Recipe",
    "Replicate",
    "Training",
    "Weights",
    "check_table",
    "closed",
    "matches",
    "override",
    "parameters_of",
    "parse",
    "read",
    "require_closed",
]

SCHEMA = 1
MOST_STEPS = 1_000_000_000
MOST_ROWS = 1 << 20
"""Samples in one training batch."""
LONGEST_TEXT = 300
"""Characters of a name or a licence."""
FREE = {"train.seed", "train.precision"}
"""Settings that a recipe may change in the closed division: the seed, and the precision, which affects speed."""


@dataclass(frozen=True)
class Training:
    """Training budget.

    Attributes:
        steps: optimiser steps.
        batch_size: samples per step; ``steps * batch_size`` is the number of training samples seen.
        lr: peak learning rate, after ``warmup`` steps; cosine decay to 0 unless ``schedule`` is "constant".
        weight_decay: weight decay, decoupled from the gradient by adamw.
        clip: gradient norm limit, 0 for none.
        ema: decay of the exponential moving average of the weights that is saved, warmed up as (1 + step) / (10 + step).
        seed: key of every random number in the run.
        storage: dtype of the saved weights, float32 or float16.
        precision: "bfloat16" runs the loss under autocast, "auto" does where the device has units for it and says so in ``made``; weights,
            optimiser and average stay float32. A choice of speed that the closed division leaves free.
        optimiser: name of the optimiser.
        optimiser_options: its own parameters, the table ``[train.optimiser_options]``.
    """

    steps: int = 10_000
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 0
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip: float = 0.0
    ema: float = 0.999
    seed: int = 0
    storage: str = "float32"
    precision: str = "float32"
    optimiser: str = "adamw"
    optimiser_options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def content(self) -> dict[str, Any]:
        """The fields as a table. Fields added later are left out at their defaults, so that hashes of older recipes stay the same."""
        table = dataclasses.asdict(self)
        later = {"precision": "float32", "optimiser": "adamw", "optimiser_options": {}}
        return {key: value for key, value in table.items() if key not in later or value != later[key]}


@dataclass(frozen=True)
class Recipe:
    """The definition of an entry; ``weights`` and ``made`` are filled in by its training.

    Attributes:
        task: task name.
        method: table with ``name`` and the parameters of the method.
        net: table with ``name`` and the parameters of the network; empty for closed forms.
        train: training budget.
        teacher: ``task/entry`` of the model that reflow and distillation start from.
        division: ``closed`` (the task's fixed network and budget), ``open``, or ``tool`` (feature extractors: never ranked).
        conditional: whether the network takes class labels.
        made: provenance written by the trainer.
        replicates: further trainings, which say how much a number depends on the seed. They are no part of the identity.
    """

    task: str
    method: Mapping[str, Any]
    net: Mapping[str, Any] = field(default_factory=dict)
    train: Training = field(default_factory=Training)
    teacher: str | None = None
    division: str = "closed"
    conditional: bool = False
    license: str = "apache-2.0"
    schema: int = SCHEMA
    weights: Weights | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    replicates: tuple[Replicate, ...] = ()

    @property
    def pins(self) -> tuple[Weights, ...]:
        """The weight files of all trainings, that of the first one first; none before it is trained."""
        return () if self.weights is None else (self.weights, *(one.weights for one in self.replicates))

    @property
    def trainings(self) -> int:
        """Number of trainings whose weights are pinned."""
        return len(self.pins)

    def training(self, index: int) -> Recipe:
        """The recipe of one training alone, counted from 0, with its seed and its weights. Raises ValueError for one that is not there."""
        if not 0 <= index < max(1, self.trainings):
            have = f"{self.trainings} training{'s' * (self.trainings != 1)}"
            raise ValueError(f"training {index} is not there: the recipe pins {have}, counted from 0")
        if index == 0:
            return dataclasses.replace(self, replicates=())
        one = self.replicates[index - 1]
        train = dataclasses.replace(self.train, seed=one.seed)
        return dataclasses.replace(self, train=train, weights=one.weights, made=one.made, replicates=())

    def require_whole(self, where: str) -> None:
        """Raise ValueError, which starts with ``where``, for trainings that share a seed, a file or their weights."""
        check_replicates(self.train.seed, self.weights, self.replicates, where)

    def identity(self) -> str:
        """Hash of what determines the weights: everything but ``weights``, ``made`` and the licence."""
        content = {**dataclasses.asdict(self), "train": self.train.content()}
        for key in ("weights", "made", "license", "replicates"):
            content.pop(key)
        return fingerprint(content)

    def to_toml(self) -> str:
        """The TOML text; tuples become arrays, absent values are left out."""
        import tomli_w

        def plain(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {k: plain(v) for k, v in value.items() if v is not None and v != {}}
            return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

        content = {**dataclasses.asdict(self), "train": self.train.content()}
        if not self.replicates:
            del content["replicates"]
        return tomli_w.dumps(plain(foreign.collapse(content)))

    def save(self, path: Path) -> None:
        """Write the TOML file atomically."""
        write_atomic(path, self.to_toml())


def parse(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from parsed TOML. Raises ValueError naming file, key and what is allowed."""
    content = dict(content)
    _check_schema(content.get("schema", SCHEMA), where)
    if "foreign" in content:
        content = foreign.expand(content, where)
    content["train"] = from_table(Training, content.get("train", {}), f"{where} [train]")
    if content.get("weights") is not None:
        content["weights"] = from_table(Weights, content["weights"], f"{where} [weights]")
        check_weights(content["weights"], f"{where} [weights]")
    content["replicates"] = read_replicates(content.get("replicates", ()), where)
    recipe = from_table(Recipe, content, where)
    recipe.require_whole(where)
    for table in ("method", "net"):
        given = getattr(recipe, table)
        if table == "method" or given:
            if not isinstance(given.get("name"), str):
                raise ValueError(f"{where} [{table}]: missing name")
            _check_text(given["name"], f"{where} [{table}]: name")
        _check_keys(given, f"{where} [{table}]")
        require_finite(given, f"{where} [{table}]")
    check_name_in(f"{where}: task", recipe.task, "a task")
    for key in ("teacher", "license"):
        if getattr(recipe, key) is not None:
            _check_text(getattr(recipe, key), f"{where}: {key}")
    _check_choice(recipe.division, ("closed", "open", "tool"), f"{where}: division")
    _check_choice(recipe.train.storage, ("float32", "float16"), f"{where} [train]: storage")
    _check_choice(recipe.train.precision, ("float32", "bfloat16", "auto"), f"{where} [train]: precision")
    _check_choice(recipe.train.schedule, ("cosine", "constant"), f"{where} [train]: schedule")
    _check_text(recipe.train.optimiser, f"{where} [train]: optimiser")
    _check_keys(recipe.train.optimiser_options, f"{where} [train.optimiser_options]")
    require_finite(recipe.train.optimiser_options, f"{where} [train.optimiser_options]")
    _check_budget(recipe.train, f"{where} [train]")
    require_finite(recipe.made, f"{where} [made]")
    return recipe


def _check_schema(schema: Any, where: str) -> None:
    """Raise ValueError for a recipe of another version, before its keys are checked, which may differ between versions."""
    if schema != SCHEMA or isinstance(schema, bool):
        newer = isinstance(schema, int) and schema > SCHEMA
        advice = "; update flow-matching-bench" if newer else ""
        raise ValueError(
            f"{where}: schema {shown(schema)} is not supported by this version, which reads {SCHEMA}{advice}"
        )


def _check_budget(train: Training, where: str) -> None:
    """Raise ValueError naming the first number that no training can have."""
    allowed = {
        "steps": (1, MOST_STEPS + 1),
        "batch_size": (1, MOST_ROWS + 1),
        "lr": (0, math.inf),
        "warmup": (0, MOST_STEPS + 1),
        "weight_decay": (0, math.inf),
        "clip": (0, math.inf),
        "ema": (0, 1),
        "seed": (0, 2**63),
    }
    for name, (least, below) in allowed.items():
        value = getattr(train, name)
        if not least <= value < below or (isinstance(value, int) and abs(value) >= 2**63):
            limit = f" and below {below}" if value >= least and below != math.inf else ""
            raise ValueError(f"{where}: {name} must be at least {least}{limit}, got {shown(value)}")


def _check_text(value: str, where: str) -> None:
    """Raise ValueError for an empty text, one of several lines, or one of unreasonable length."""
    if not value.strip() or not value.isprintable() or len(value) > LONGEST_TEXT:
        raise ValueError(f"{where} must be 1 to {LONGEST_TEXT} characters on one line, got {shown(value)}")


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for a parameter that no recipe can have: the names of parameters are words of Python."""
    for key in table:
        if not key.isidentifier():
            raise ValueError(f"{where}: {shown(key)} is no name of a parameter")


def _check_choice(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise ValueError(f"{where} must be one of {', '.join(allowed)}, got {shown(value)}")


def read(path: Path) -> Recipe:
    """Read ``recipe.toml``. Raises FileNotFoundError or ValueError in one line."""
    return parse(read_toml(path, "recipe"), str(path))


def closed(task: Any, method: str, parameters: Mapping[str, Any] | None = None, **fields: Any) -> Recipe:
    """The closed-division recipe of a method on a :class:`~fmbench.tasks.base.Task`: the task's own network and budget.

    ``parameters`` go to the method; ``fields`` are other fields of the recipe (teacher, conditional).
    """
    table = {"name": method, **(parameters or {})}
    content = {"task": task.name, "method": table, "net": dict(task.net), "train": dict(task.train), **fields}
    return parse(content, f"closed recipe of {method} on {task.name}")


def require_closed(recipe: Recipe, task: Any, where: str) -> None:
    """Raise ValueError when a recipe claims the closed division with a network or budget that is not the task's.

    What is :data:`FREE` is, and so is what has no network to train.
    """
    if recipe.division != "closed" or not recipe.net:
        return
    fixed = parse({"task": task.name, "method": {"name": "any"}, "net": dict(task.net), "train": dict(task.train)})
    claimed, allowed = (
        {
            **{f"net.{k}": v for k, v in r.net.items()},
            **{f"train.{k}": v for k, v in dataclasses.asdict(r.train).items()},
        }
        for r in (recipe, fixed)
    )
    for key in sorted({*claimed, *allowed} - FREE):
        given, own = (list(v) if isinstance(v, tuple) else v for v in (claimed.get(key), allowed.get(key)))
        if given != own:
            raise ValueError(
                f'{where}: division is closed, but {key} is {given}, not {own} as {task.name} has it; set division = "open"'
            )


def override(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Apply ``{"train.steps": 10, "method.sigma": 0.1, "teacher": "..."}``; network or budget changes leave the closed division.

    A division among the settings stands. Raises ValueError for keys that no recipe has, and for those that a training writes.
    """
    content = dataclasses.asdict(recipe)
    content = {k: v for k, v in content.items() if v is not None}
    content.pop("weights", None)
    content["made"] = {}
    for dotted, value in settings.items():
        table = content
        *parents, key = dotted.split(".")
        if dotted.partition(".")[0] in ("weights", "made"):
            raise ValueError(f"{dotted!r} is written by the training itself and cannot be set")
        for parent in parents:
            if not isinstance(table.get(parent), dict):
                raise ValueError(f"unknown recipe table {parent!r} in {dotted!r}; allowed: method, net, train")
            table = table[parent]
        table[key] = value
        changes = dotted.partition(".")[0] in ("net", "train") and dotted not in FREE
        if changes and recipe.division == "closed" and "division" not in settings:
            content["division"] = "open"
    return parse(content, "recipe with overrides")
