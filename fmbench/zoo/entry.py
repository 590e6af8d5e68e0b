"""The folder of a trained entry: weights, the recipe that pins them, and the model card."""

from __future__ import annotations

import dataclasses
import io
import platform
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from fmbench.execution.foreign import isolated
from fmbench.flows.flow import GUIDANCE as GUIDANCE_CAPABILITY
from fmbench.flows.flow import VELOCITY
from fmbench.methods.base import Method
from fmbench.records.recipe import Recipe, Weights, parse
from fmbench.storage.files import sha256, write_atomic
from fmbench.tasks.base import Task
from fmbench.version import __version__
from fmbench.zoo import saving
from fmbench.zoo.building import build, in_words, make_task, parameters_in
from fmbench.zoo.card import ALT, GUIDANCE, PER_CLASS, STEPS, card
from fmbench.zoo.catalogue import Entry
from fmbench.zoo.loading import load_entry
from fmbench.zoo.model import Model
from fmbench.zoo.pictures import grid, trajectories

WEIGHTS = "model.safetensors"


def prove_saved(recipe: Recipe, method: Method, task: Task, where: str) -> bytes:
    """The weight file of ``method``, after it has been loaded into a newly built method and compared.

    Raises ForeignError in one line, after ``where``, naming a value that a weight file cannot hold or that changes when loaded.
    """
    with in_words(where):
        data = saving.to_bytes(method, recipe.train.storage)
        with isolated():
            # Other random numbers than at the first build: what is drawn there and not saved is different here.
            torch.default_generator.manual_seed(recipe.train.seed ^ 0x5AFE)
            fresh = build(recipe, task, type(method), where)
        saving.require_saved(method, fresh, data, recipe.train.storage)
    return data


def write_entry(recipe: Recipe, method: Method, out: Path, run: Mapping[str, Any]) -> None:
    """Write weights, then the recipe that pins them; both are verified before the first is written. :func:`write_card` does the rest.

    ``run`` describes the training run: ``device``, ``seconds`` and other values for the recipe's ``[made]`` table, such as the hash of the
    teacher's weights where there was one. Raises ForeignError
    in one line for a state that cannot be saved and for diagnostics that fail or are no numbers.
    """
    where = str(out / "recipe.toml")
    task = make_task(recipe.task, where)
    data = prove_saved(recipe, method, task, where)
    device = run["device"]
    with in_words(f"diagnostics of {type(method).__name__}"):
        figures = {name: float(value) for name, value in method.diagnostics(task).items()}
    made = {
        "fmbench": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "samples_seen": recipe.train.steps * recipe.train.batch_size,
        "seconds": round(run["seconds"], 1),
        "threads": torch.get_num_threads(),
        **{key: value for key, value in run.items() if key not in ("device", "seconds")},
        **figures,
    }
    pinned = Weights(WEIGHTS, sha256(data), len(data), parameters_in(method))
    finished = dataclasses.replace(recipe, weights=pinned, made=made)
    # What is written is what will be read.
    parse(tomllib.loads(finished.to_toml()), where)
    write_atomic(out / WEIGHTS, data)
    finished.save(out / "recipe.toml")


def write_card(entry: Entry, kind: type[Method] | None = None, draw: bool = True) -> list[Path]:
    """Write ``README.md`` of a finished entry and, for images, the pictures it shows, from its saved weights; returns the files.

    ``kind`` is the class of a method of the user's own, whose file is not executed here; without ``draw`` the pictures that are there stay as
    they are. Raises FileNotFoundError or ValueError when the
    entry is not finished.
    """
    recipe, folder = entry.recipe, entry.folder
    if recipe.weights is None:
        raise ValueError(f"{folder} has no weights yet; finish it with `fmbench train {folder}`")
    model = load_entry(entry, kind, "cpu")
    with in_words(f"the pictures of {folder}"):
        pictures = {} if recipe.division == "tool" or not draw else drawings(model)
    shown = tuple(pictures) if draw else tuple(name for name in ALT if (folder / name).is_file())
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, format="png", optimize=True)
        write_atomic(folder / name, buffer.getvalue())
    write_atomic(folder / "README.md", card(recipe, model.method, folder.resolve().name, shown))
    return [folder / name for name in ("README.md", *pictures)]


def drawings(model: Model) -> dict[str, Image]:
    """File name -> picture: 64 samples of seed 0 (the first, not chosen), a row per class, five trajectories; nothing for vectors."""
    if model.task.kind != "image":
        return {}
    steps = model.method.default.steps or STEPS
    found = {"samples.png": grid(model.sample(64, seed=0, steps=steps))}
    if GUIDANCE_CAPABILITY in model.method.capabilities:
        labels = torch.arange(model.task.num_classes).repeat_interleave(PER_CLASS)
        guided = model.sample(len(labels), seed=0, steps=steps, labels=labels, guidance=GUIDANCE)
        found["classes.png"] = grid(guided, PER_CLASS)
    if VELOCITY in model.method.capabilities:
        found["trajectory.png"] = trajectories(model, 5, steps=max(steps, STEPS))
    return found
