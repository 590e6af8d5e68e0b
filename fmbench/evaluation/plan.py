"""The list of evaluations for a benchmark and the names of models, in order; nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fmbench.evaluation.evaluation import DATA
from fmbench.records.protocol import Protocol
from fmbench.registry import TASKS
from fmbench.tasks.base import Task
from fmbench.zoo.catalogue import list_entries
from fmbench.zoo.resolve import Resolved, resolve_for


@dataclass(frozen=True)
class Planned:
    """One evaluation: a task, and the model on it, None for the anchor of real data."""

    task: Task
    model: Resolved | None

    @property
    def name(self) -> str:
        """The name given by the user; ``task/data`` for the anchor."""
        return f"{self.task.name}/{DATA}" if self.model is None else self.model.spec


def plan(spec: Protocol, models: Sequence[str | Resolved] | None, trainings: int | None = None) -> list[Planned]:
    """Every evaluation of a benchmark: per task the ``data`` anchor, then the models in the order given.

    ``models`` None means every bundled entry of the protocol's tasks. Of an entry with several trainings as many are planned as ``trainings``
    says, or the protocol; a name with ``@K`` means that one alone. A folder that cannot be read stands under the first task, and fails
    when its turn comes. Raises what :func:`~fmbench.zoo.resolve.resolve` raises, and ValueError for an empty list, a model of another task,
    two models whose results would lie in one file, or when nothing is bundled.
    """
    if models is not None and not models:
        raise ValueError("no models to run: the list is empty; leave -m out for every bundled entry")
    named = models if models is not None else [entry for task in spec.tasks for entry in list_entries(task)]
    if not named:
        raise ValueError(f"no entry is bundled for {', '.join(spec.tasks)}; name models of your own with -m")
    found = [one for name in named for one in (resolve_for(name, spec.tasks) if isinstance(name, str) else [name])]
    chosen = [one for model in found for one in model.trainings(trainings or spec.trainings)]
    _check(chosen, spec)
    planned = []
    for task_name in spec.tasks:
        here = [model for model in chosen if (model.task or spec.tasks[0]) == task_name]
        if here:
            task = TASKS.resolve(task_name)()
            planned += [Planned(task, model) for model in (None, *here)]
    return planned


def _check(models: Sequence[Resolved], spec: Protocol) -> None:
    """Raise ValueError for a model of no task of the protocol, and for two whose results would lie in one file."""
    places: dict[str, str] = {}
    for model in models:
        if model.task is not None and model.task not in spec.tasks:
            raise ValueError(f"{model.spec} is for task {model.task}, and {spec.name} has {', '.join(spec.tasks)}")
        if (other := places.get(model.name)) is not None:
            alike = f"{other} and {model.spec} are both {model.name}; rename one"
            raise ValueError(f"{model.spec} is named twice" if other == model.spec else alike)
        places[model.name] = model.spec
