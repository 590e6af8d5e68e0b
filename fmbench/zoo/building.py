"""Recipe -> untrained method, its size limited before allocation; and the check that it conforms to the closed division."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves

from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.execution.operators import OperatorMode
from fmbench.methods.base import Method
from fmbench.records.pins import MOST_PARAMETERS
from fmbench.records.recipe import Recipe
from fmbench.records.tables import check_table, parameters_of, required_of
from fmbench.registry import NETS, TASKS, Registry, UnknownName, create
from fmbench.storage.readers import first_line, one_line
from fmbench.tasks.base import Task
from fmbench.zoo.code import beside

SMALL = 4_000_000
"""Numbers up to which a method is sketched in real memory: the meta device costs 1.6 s of imports, because it compiles."""
MOST_TENSORS = 20_000
"""Tensors that building a method may make."""
CLOSED_TOLERANCE = 0.05
"""Share by which the parameters of a closed entry may differ from those of its task's network."""
T = TypeVar("T")


class TooLarge(ForeignError):
    """A method would have more numbers, or more tensors, than are allowed."""


class _Bounded(OperatorMode):
    """Refuses the allocation that passes the limit, before it is made."""

    def __init__(self, most: int, where: str) -> None:
        super().__init__()
        self.most, self.where, self.numbers, self.tensors = most, where, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        fresh = schema.name.startswith("aten::new_") or not any(isinstance(a, torch.Tensor) for a in args)
        for position, argument in enumerate(schema.arguments if fresh else ()):
            if argument.name == "size":
                size = args[position] if position < len(args) else (kwargs or {}).get("size", ())
                self._count(math.prod(int(n) for n in size))
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.numel() > self.most:
                self._count(tensor.numel())
        return made

    def _count(self, numbers: int) -> None:
        self.numbers += max(numbers, 0)
        self.tensors += 1
        if self.numbers > self.most or self.tensors > MOST_TENSORS:
            what = f"{self.most:,} numbers" if self.numbers > self.most else f"{MOST_TENSORS:,} tensors"
            raise TooLarge(f"{self.where}: the network would have more than {what}; lower the sizes in [net]")


@contextmanager
def in_words(where: str) -> Iterator[None]:
    """Context in which any exception becomes a ForeignError of one line after ``where``; the message of a ValueError stays."""
    try:
        with foreign():
            yield
    except ForeignError as error:
        cause = error.__cause__
        said = first_line(cause) if isinstance(cause, ValueError) else str(error)
        raise ForeignError(said if said.startswith(where) else f"{where}: {said}") from cause


def resolved(registry: Registry, name: str, where: str) -> Any:
    """The registered object. Raises UnknownName after ``where``, ForeignError when a plug-in cannot be imported."""
    try:
        return registry.resolve(name)
    except UnknownName as error:
        raise UnknownName(f"{where}: {error}") from None
    except Exception as error:
        raise ForeignError(f"{where}: {registry.kind} {name}: {one_line(error)}") from error


def make_task(name: str, where: str) -> Task:
    """The task of a name. Raises UnknownName after ``where``, ForeignError when a plug-in fails."""
    make = resolved(TASKS, name, where)
    with in_words(f"{where}: task {name}"):
        return make()


def check_recipe(recipe: Recipe, task: Task, kind: type[Method], where: str) -> None:
    """Raise ValueError for unknown, missing or ill-typed parameters, and for a source or labels that the task does not have."""
    if recipe.conditional and not task.num_classes:
        raise ValueError(f"{where}: conditional = true, but {task.name} has no class labels; leave conditional out")
    if kind.gaussian_source_only and not task.gaussian_source:
        raise ValueError(f"{recipe.method['name']} needs a Gaussian source, and the source of {task.name} is not")
    own = ("self", "net")
    given = {k: v for k, v in recipe.method.items() if k != "name"}
    check_table(given, parameters_of(kind, skip=own), f"{where} [method]")
    missing = [name for name in required_of(kind, skip=own) if name not in given]
    if recipe.net:
        net_kind = resolved(NETS, recipe.net["name"], f"{where} [net]")
        allowed = parameters_of(net_kind, skip=("self", "shape", "num_classes"))
        check_table({k: v for k, v in recipe.net.items() if k != "name"}, allowed, f"{where} [net]")
    if missing:
        raise ValueError(f"{where} [method]: missing {', '.join(missing)}")


def build(recipe: Recipe, task: Task, kind: type[Method], where: str, most: int = MOST_PARAMETERS) -> Method:
    """The untrained method of a recipe, of at most ``most`` numbers.

    Raises ValueError in one line: what :func:`check_recipe` raises, a network that is too large, or whatever its code raised.
    """
    check_recipe(recipe, task, kind, where)
    with in_words(where):
        outline(recipe, task, kind, where, most)
        with isolated(), _Bounded(most, where):
            method = _make(recipe, task, kind)
    if recipe.conditional and not getattr(method.net, "num_classes", 0):
        raise ValueError(
            f"{where}: conditional = true, but {type(method.net).__name__} takes no labels (it has no num_classes)"
        )
    return method


def _make(recipe: Recipe, task: Task, kind: type[Method]) -> Method:
    parameters = {k: v for k, v in recipe.method.items() if k != "name"}
    with beside(kind):
        method = kind(kind.build_net(task, dict(recipe.net), recipe.conditional), **parameters)
    if not isinstance(getattr(method, "net", None), torch.nn.Module):
        raise ForeignError(f"{kind.__name__}.build_net must return a torch module, got {type(method.net).__name__}")
    return method


def outline(recipe: Recipe, task: Task, kind: type[Method], where: str, most: int = MOST_PARAMETERS) -> Method | None:
    """The method in little memory: a small one as it is, a larger one on the meta device; None where code from outside, or numbers it
    needs, forbid that.

    Such code might keep a tensor of the meta device for later; of a recipe with a built-in network at least that network is measured.
    Raises TooLarge.
    """
    try:
        if _ours(kind):
            return _sketched(lambda: _make(recipe, task, kind), most, where)
        if recipe.net and _ours(NETS.resolve(recipe.net["name"])):
            _sketched(lambda: Method.build_net(task, dict(recipe.net), recipe.conditional), most, where)
    except TooLarge:
        raise
    except Exception:  # the real build says what is wrong
        return None
    return None


def _sketched(make: Callable[[], T], most: int, where: str) -> T:
    """The result of ``make``, in the memory of :data:`SMALL` numbers at most. Raises TooLarge above ``most``."""
    with isolated(), suppress(TooLarge), _Bounded(min(SMALL, most), where):
        return make()
    with isolated(), torch.device("meta"), _Bounded(most, where):
        return make()


def _ours(kind: Any) -> bool:
    return getattr(kind, "__module__", "").startswith("fmbench.")


def parameters_in(method: torch.nn.Module) -> int:
    """Trained numbers in a method, all of its modules together, shared ones once."""
    return sum(p.numel() for p in method.parameters())


def require_closed_net(recipe: Recipe, method: Method, task: Task, where: str) -> None:
    """Raise ValueError when an entry claims the closed division and was built with another or a larger network than its task's.

    Compared are the class of the network and the parameters of all modules of the method together, within
    :data:`CLOSED_TOLERANCE`; labels may add to them. A method without parameters is free.
    """
    count = parameters_in(method)
    if recipe.division != "closed" or not count or not task.net:
        return
    options = {k: v for k, v in task.net.items() if k != "name"}
    classes = task.num_classes if recipe.conditional else 0
    own = _sketched(
        lambda: create("nets", task.net["name"], shape=task.shape, num_classes=classes, **options),
        MOST_PARAMETERS,
        where,
    )
    allowed = parameters_in(own)
    if type(method.net) is not type(own) or abs(count - allowed) > CLOSED_TOLERANCE * allowed:
        raise ValueError(
            f"{where}: division is closed, but the method was built with {type(method.net).__name__} and {count:,} parameters, "
            f'not {type(own).__name__} and {allowed:,} as {task.name} has it; set division = "open"'
        )
