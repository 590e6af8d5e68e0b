"""One string -> a model: an entry of the zoo, a folder, or a file of the user's own."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fmbench.methods.base import Method
from fmbench.records.recipe import Recipe, check_table, parameters_of
from fmbench.registry import METHODS, NETS, TASKS
from fmbench.storage.files import sha256
from fmbench.tasks.base import Task
from fmbench.zoo import catalogue
from fmbench.zoo.catalogue import Entry
from fmbench.zoo.model import Model


def build(recipe: Recipe, task: Task, kind: type[Method], where: str) -> Method:
    """The untrained method of a recipe.

    Raises ValueError for unknown or ill-typed parameters, and for a source or labels that the task does not have.
    """
    if recipe.conditional and not task.num_classes:
        raise ValueError(f"{where}: conditional = true, but {task.name} has no class labels; leave conditional out")
    if kind.gaussian_source_only and not task.gaussian_source:
        raise ValueError(f"{recipe.method['name']} needs a Gaussian source, and the source of {task.name} is not")
    parameters = {k: v for k, v in recipe.method.items() if k != "name"}
    check_table(parameters, parameters_of(kind, skip=("self", "net")), f"{where} [method]")
    if recipe.net:
        net_kind = NETS.resolve(recipe.net["name"])
        allowed = parameters_of(net_kind, skip=("self", "shape", "num_classes"))
        check_table({k: v for k, v in recipe.net.items() if k != "name"}, allowed, f"{where} [net]")
    return kind(kind.build_net(task, dict(recipe.net), recipe.conditional), **parameters)


def _execute(file: Path) -> ModuleType:
    """The module of a file, executed once per content; it stays in ``sys.modules``, as ``inspect`` and dataclasses need."""
    name = f"fmbench_user_{file.stem}_{sha256(str(file.resolve()).encode() + file.read_bytes())[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def method_class(spec: str) -> type[Method]:
    """The class of a registered name or of ``path/to/file.py:Class``; the file is executed, so it must be the user's own words.

    Raises UnknownName, FileNotFoundError, or ValueError when the file has no such Method.
    """
    path, separator, name = spec.rpartition(":")
    if not separator or not path.endswith(".py"):
        return METHODS.resolve(spec)
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {path} for the method {spec}")
    module = _execute(file)
    kind = getattr(module, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Method)):
        found = [
            n
            for n, k in vars(module).items()
            if inspect.isclass(k) and issubclass(k, Method) and k.__module__ == module.__name__
        ]
        raise ValueError(
            f"{path} has no class {name} derived from fmbench.methods.Method; it has: {', '.join(found) or 'none'}"
        )
    return kind


def load_entry(entry: Entry, kind: type[Method] | None, device: str) -> Model:
    """The model of an entry folder; ``kind`` is its class when the recipe names a file, which is never executed from here.

    Raises ValueError in one line when the weights do not fit, are not what the recipe pins, or need code that was not given.
    """
    from safetensors.torch import load as read_safetensors

    recipe = entry.recipe
    if kind is None:
        if ".py:" in recipe.method["name"]:
            raise ValueError(
                f"{entry.name} runs code from {recipe.method['name']}; say so with -m {recipe.method['name']}"
            )
        kind = METHODS.resolve(recipe.method["name"])
    assert kind is not None
    task = TASKS.resolve(recipe.task)()
    # The initial weights are drawn and thrown away; a caller's random numbers must not depend on what was loaded before.
    with torch.random.fork_rng(devices=[]):
        method = build(recipe, task, kind, str(entry.folder / "recipe.toml"))
    identity: dict[str, Any] = {"license": recipe.license, "recipe": recipe.identity(), "code_sha256": code_hash(kind)}
    if any(True for _ in method.parameters()):
        state = read_safetensors(entry.read_weights())
        try:
            method.load_state_dict({k: v.float() for k, v in state.items()})
        except RuntimeError as error:
            what = str(error).partition("\n")[2].strip().partition("\n")[0]
            raise ValueError(f"{entry.folder}: the weights do not fit the recipe's [net]: {what}") from None
        assert recipe.weights is not None
        identity["weights_sha256"] = recipe.weights.sha256
    return Model(entry.name, task, method.eval().to(device), recipe, identity)


def code_hash(kind: type) -> str:
    """SHA-256 of the source file of a class: which code was evaluated."""
    return sha256(Path(inspect.getfile(kind)).read_bytes())


def _load_file(spec: str, task: str | None, device: str) -> Model:
    kind = method_class(spec)
    entry_name = catalogue.kebab(kind.__name__)
    trained = catalogue.trained_here(kind.__name__, task or "*")
    where = ", ".join(map(str, trained)) or f"none in {catalogue.LOCAL_ENTRIES}/*/{entry_name}"
    if task is None and len({folder.parent for folder in trained}) != 1:
        raise ValueError(f"which task is {spec} for? trained entries: {where}; give the task")
    if len(trained) > 1:
        raise ValueError(f"which entry of {spec}? trained here: {where}; move the others elsewhere")
    if trained:
        return load_entry(catalogue.open_folder(trained[0]), kind, device)
    assert task is not None
    definition = TASKS.resolve(task)()
    from fmbench.records.recipe import closed

    method = build(closed(definition, spec), definition, kind, spec)
    if any(True for _ in method.parameters()):
        raise FileNotFoundError(
            f"{spec} has no weights for {task}; make them with `fmbench train --method {spec} --task {task}`"
        )
    return Model(f"{task}/{entry_name}", definition, method.eval().to(device), None, {"code_sha256": code_hash(kind)})


def load(spec: str, *, task: str | None = None, device: str = "cpu") -> Model:
    """Load a model by one string: ``task/entry`` of the zoo, a folder, or ``path/to/file.py:Class`` (then for ``task``).

    Raises UnknownName, FileNotFoundError, or ValueError (ambiguous name, corrupted weights) in one line.
    """
    path, separator, _ = spec.rpartition(":")
    if separator and path.endswith(".py"):
        return _load_file(spec, task, device)
    return load_entry(catalogue.find(spec), None, device)
