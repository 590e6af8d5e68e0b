"""Resolution of a string to an entry of the zoo or of the Hub, a folder, or user code; resolved once and passed on.

Nothing is executed and no weight is read before :meth:`Resolved.load`; until then nothing heavy is imported either. Of a repository on the
Hub the recipe is fetched when it is resolved, the weights when it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fmbench import moved
from fmbench.registry import TASKS, UnknownName, file_class, nearest
from fmbench.storage.repository import PREFIX
from fmbench.zoo import hub
from fmbench.zoo.catalogue import LOCAL_ENTRIES, Entry, kebab, located, open_folder, trained_here
from fmbench.zoo.hub import HubEntry

if TYPE_CHECKING:
    from fmbench.zoo.model import Model


@dataclass(frozen=True)
class Resolved:
    """The object that a string names.

    Attributes:
        spec: the string, as it was given; for a repository on the Hub with the commit that it named, so that it names the same everywhere.
        name: ``task/entry``; the string itself for a folder that cannot be read.
        task: name of the task; None for a folder that cannot be read.
        found: the folder with its recipe; None for code that has no weights here.
        code: ``path/to/file.py:Class`` where the string names code, which :meth:`load` executes.
        damage: why the folder cannot be read.
        hub: the entry on the Hub, of which :meth:`load` fetches the weights; None for everything else.
    """

    spec: str
    name: str
    task: str | None
    found: Entry | None = None
    code: str | None = None
    damage: Exception | None = None
    hub: HubEntry | None = None

    @property
    def entry(self) -> Entry:
        """The folder with its recipe. Raises the damage, FileNotFoundError for code that has no folder."""
        if self.damage is not None:
            raise self.damage
        if self.found is None:
            raise FileNotFoundError(
                f"{self.spec} has no entry here; make one with `fmbench train --method {self.spec} --task {self.task}`"
            )
        return self.found

    @property
    def runs_remote_code(self) -> bool:
        """Whether it is code of a repository on the Hub, which its user trusts in this process only."""
        return self.hub is not None and self.hub.code is not None

    def trainings(self, most: int) -> list[Resolved]:
        """Up to ``most`` trainings of an entry that has several, each as a thing of its own; else this one, unchanged."""
        if self.found is None or self.hub is not None or self.code is not None or self.found.recipe.trainings < 2:
            return [self]
        return [
            replace(self, spec=f"{self.spec}@{index}" if index else self.spec, name=one.name, found=one)
            for index, one in enumerate(self.found.trainings[:most])
        ]

    def load(self, device: str = "cpu", trust_remote_code: bool = False) -> Model:
        """The model on a device, in evaluation mode. Raises the damage, and ValueError or FileNotFoundError in one line.

        ``trust_remote_code`` lets the code of a repository on the Hub run, when the string names its commit.
        """
        from fmbench.zoo import loading

        if self.hub is not None:
            return loading.load_hub(self.hub, device, trust_remote_code)
        if self.found is None and self.code is not None:
            assert self.task is not None
            return loading.load_code(self.code, self.task, device)
        kind = None if self.code is None else loading.method_class(self.code)
        return loading.load_entry(self.entry, kind, device)


def resolve(spec: str | os.PathLike[str], task: str | None = None) -> Resolved:
    """Resolve ``task/entry``, a folder, ``hf:owner/name@revision``, or ``path/to/file.py:Class`` for ``task`` or its only one.

    ``task/entry@K`` and ``folder@K`` name one training of an entry that has several, counted from 0; without it the first is meant.
    A folder whose recipe cannot be read has ``damage`` set, so that a run of many reports it in its turn. Raises UnknownName,
    FileNotFoundError, or ValueError in one line for a string that names several, which shows them, or that names a model of another task.
    """
    if not isinstance(spec, (str, os.PathLike)):
        raise ValueError(
            f"a model is named by a string, task/entry, a folder, hf:owner/name or file.py:Class, got {type(spec).__name__}"
        )
    spec = os.fspath(spec)
    if spec.startswith(PREFIX):
        return _of_hub(spec, task)
    parts = file_class(spec)
    if parts is not None:
        return _code(spec, *parts, task)
    folder, name, training = located(spec)
    try:
        entry = open_folder(folder, name)
    except (ValueError, OSError) as error:
        return Resolved(spec, spec, None, damage=error)
    entry = entry if training is None else entry.training(training)
    if task not in (None, entry.recipe.task):
        raise ValueError(f"{spec} is for task {entry.recipe.task}, not {task}")
    return Resolved(spec, entry.name, entry.recipe.task, entry)


def _of_hub(spec: str, task: str | None) -> Resolved:
    """The entry in a repository of the Hub, with its recipe read; its weights are not fetched yet."""
    found = hub.find(spec, task)
    if task not in (None, found.entry.recipe.task):
        raise ValueError(f"{spec} is for task {found.entry.recipe.task}, not {task}")
    return Resolved(str(found.address), found.entry.name, found.entry.recipe.task, found.entry, hub=found)


def _code(spec: str, path: str, kind: str, task: str | None) -> Resolved:
    """The resolution of a user's class for a task, or for the only one that it was trained for."""
    _require_code(spec, path, kind)
    if task is not None and task not in TASKS.all():
        raise UnknownName(f"{spec}: {nearest('task', task, TASKS.all())}")
    folders = trained_here(kind, task or "*")
    where = ", ".join(map(str, folders)) or f"none in {LOCAL_ENTRIES}/*/{kebab(kind)}"
    if task is None and len({folder.parent for folder in folders}) != 1:
        raise ValueError(f"which task is {spec} for? trained entries: {where}; give the task")
    if len(folders) > 1:
        raise ValueError(f"which entry of {spec}? trained here: {where}; move the others elsewhere")
    if not folders:
        return Resolved(spec, f"{task}/{kebab(kind)}", task, code=spec)
    (folder,) = folders
    try:
        entry = open_folder(folder)
    except (ValueError, OSError) as error:
        return Resolved(spec, f"{folder.parent.name}/{folder.name}", folder.parent.name, code=spec, damage=error)
    return Resolved(spec, entry.name, entry.recipe.task, entry, spec)


def _require_code(spec: str, path: str, kind: str) -> None:
    """Raise FileNotFoundError for a file that is not there, ValueError for what cannot be the name of a class."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path} for the method {spec}")
    if not kind.isidentifier():
        raise ValueError(f"{spec}: {kind!r} is no name of a class; write file.py:Class")


def resolve_for(spec: str, tasks: Sequence[str]) -> list[Resolved]:
    """Resolve a string for a benchmark of some tasks: one model; code once per task that it was trained for here, else for all tasks.

    Raises what :func:`resolve` raises.
    """
    parts = file_class(spec)
    if parts is None:
        return [resolve(spec)]
    _require_code(spec, *parts)
    trained = [task for task in tasks if trained_here(parts[1], task)]
    return [resolve(spec, task) for task in trained or tasks]


def load(
    spec: str | os.PathLike[str], *, task: str | None = None, device: str = "cpu", trust_remote_code: bool = False
) -> Model:
    """Load a model by one string: ``task/entry``, a folder, ``hf:owner/name@revision``, or ``path/to/file.py:Class`` (then for ``task``).

    ``trust_remote_code`` lets the code of a repository on the Hub run; the string must name the commit. Raises UnknownName, FileNotFoundError,
    or ValueError (ambiguous name, corrupted weights) in one line, and PermissionError or ConnectionError for what cannot be fetched.
    """
    return resolve(spec, task).load(device, trust_remote_code)


_MOVED = {"build": "building", "code_hash": "code", "load_entry": "loading", "method_class": "code"}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return moved.attribute(__name__, name, f"fmbench.zoo.{_MOVED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
