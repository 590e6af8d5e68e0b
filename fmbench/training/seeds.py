"""Further trainings of an entry with other seeds: what a claim about a method, and not about one network, needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fmbench.methods.base import Method
from fmbench.records.names import training_name
from fmbench.records.pins import Replicate
from fmbench.records.recipe import Recipe
from fmbench.registry import file_class
from fmbench.storage.files import write_atomic
from fmbench.zoo.catalogue import Entry, open_folder
from fmbench.zoo.entry import write_card
from fmbench.zoo.resolve import resolve

WORKSPACES = ".trainings"
"""Folder inside that of an entry where its further trainings are made, until they are adopted."""


@dataclass(frozen=True)
class Planned:
    """One training that is left to do: its recipe, and the folder to train it in."""

    recipe: Recipe
    folder: Path


def missing(recipe: Recipe, out: Path, count: int) -> list[Planned]:
    """The trainings of the seeds ``recipe.train.seed`` and the ``count - 1`` after it that ``out`` does not hold yet, in order.

    A method with a teacher starts training ``k`` from training ``k`` of its teacher, where the teacher has as many, so that whole chains are
    repeated; otherwise from its first. Raises ValueError in one line when ``out`` holds another recipe, or weights that are not what it pins,
    and FileNotFoundError for a pinned file that is not there: what counts as finished was looked at.
    """
    first = recipe.train.seed
    bare = replace(recipe, weights=None, made={}, replicates=())
    held: set[int] = set()
    if (out / "recipe.toml").is_file():
        entry = open_folder(out)
        found = entry.recipe
        if found.identity() != bare.identity():
            raise ValueError(f"{out} holds another recipe than the one to train; give another --out")
        for one in entry.trainings if found.weights else ():
            one.read_weights()
            held.add(one.recipe.train.seed)
    planned = []
    for index, seed in enumerate(range(first, first + count)):
        if seed not in held:
            own = replace(bare, train=replace(bare.train, seed=seed), teacher=teacher_of(bare, index))
            planned.append(Planned(own, out if index == 0 else out / WORKSPACES / f"seed-{seed}"))
    return planned


def teacher_of(recipe: Recipe, index: int) -> str | None:
    """The teacher of one training: the training of the same index where the teacher that is named has it, else the named one."""
    name = recipe.teacher
    if name is None or index == 0 or name.startswith("hf:") or file_class(name) is not None:
        return name
    return training_name(name, index) if index < resolve(name).entry.recipe.trainings else name


def adopt(out: Path, finished: Path, kind: type[Method] | None = None) -> Entry:
    """Pin a finished training of the same recipe with another seed as a replicate of the entry in ``out``; returns that entry.

    The weights are copied and verified, then the recipe that pins them is written, then the card. ``kind`` is the class of a method of the
    user's own. Raises ValueError in one line, nothing changed, for a training of another recipe or of a seed that is there, and for one that
    was taught by weights that its teacher does not have.
    """
    entry, other = open_folder(out), open_folder(finished)
    if entry.recipe.weights is None or other.recipe.weights is None:
        raise ValueError(f"{out if entry.recipe.weights is None else finished} is not trained yet; finish it first")
    _require_same(entry, other)
    seed, data = other.recipe.train.seed, other.read_weights()
    weights = replace(other.recipe.weights, file=f"model-{seed}.safetensors", source=None)
    extended = replace(entry.recipe, replicates=(*entry.recipe.replicates, Replicate(seed, weights, other.recipe.made)))
    extended.require_whole(str(out / "recipe.toml"))
    write_atomic(out / weights.file, data)
    extended.save(out / "recipe.toml")
    entry = open_folder(out, entry.name)
    write_card(entry, kind, draw=False)
    return entry


def _require_same(entry: Entry, other: Entry) -> None:
    """Raise ValueError unless two entries are trainings of one recipe, the second taught by what would teach the next training of the first."""
    bare = [replace(r, train=replace(r.train, seed=0), teacher=None) for r in (entry.recipe, other.recipe)]
    if bare[0].identity() != bare[1].identity() or (entry.recipe.teacher is None) != (other.recipe.teacher is None):
        raise ValueError(f"{other.folder} is a training of another recipe than {entry.folder}")
    if entry.recipe.teacher is None:
        return
    taught, index = other.recipe.made.get("teacher_sha256"), entry.recipe.trainings
    teacher = resolve(teacher_of(entry.recipe, index) or "").entry
    if teacher.recipe.weights is None or taught != teacher.recipe.weights.sha256:
        raise ValueError(
            f"{other.folder} was taught by the weights {taught!s:.12}, and training {index} of {entry.name} starts from {teacher.name}, "
            "which has others; give the teacher its trainings first, and adopt in their order"
        )


def train_seeds(
    planned: Sequence[Planned], out: Path, train: Callable[[Recipe, Path], bool], kind: type[Method] | None = None
) -> bool:
    """Carry out trainings one after the other and adopt those of further seeds; returns whether all were finished.

    ``train`` trains a recipe into a folder and returns whether it was finished; what was interrupted is continued there the next time.
    """
    for one in planned:
        whole = open_folder(one.folder).recipe if (one.folder / "recipe.toml").is_file() else None
        if (whole is None or whole.weights is None) and not train(one.recipe, one.folder):
            return False
        if one.folder != out:
            adopt(out, one.folder, kind)
            shutil.rmtree(one.folder, ignore_errors=True)
    if (out / WORKSPACES).is_dir() and not any((out / WORKSPACES).iterdir()):
        (out / WORKSPACES).rmdir()
    return True
