"""Loading of models from entries or user code; sizes are limited before memory is allocated."""

from __future__ import annotations

import math
from typing import Any

import torch

from fmbench.execution.foreign import foreign
from fmbench.methods.base import Method
from fmbench.records.pins import MOST_PARAMETERS, Weights
from fmbench.records.recipe import closed
from fmbench.registry import METHODS, TOOLS, file_class
from fmbench.tasks.base import Task
from fmbench.zoo import saving
from fmbench.zoo.building import build, make_task, outline, parameters_in, require_closed_net, resolved
from fmbench.zoo.catalogue import Entry, kebab
from fmbench.zoo.code import code_hash, method_class
from fmbench.zoo.hub import HubEntry
from fmbench.zoo.model import Model

SPARE = 10_000_000
"""Numbers that building may make beside four times those in the weight file."""


def load_entry(entry: Entry, kind: type[Method] | None, device: str) -> Model:
    """The model of an entry folder; ``kind`` is its class when the recipe names a file, which is never executed from here.

    The weight file is compared with the recipe's network before either takes memory. Raises ValueError in one line when the weights do not
    fit, are not what the recipe pins, or need code that was not given; when the network is not that of the division the entry claims; and for
    whatever its code raises.
    """
    recipe, where = entry.recipe, str(entry.folder / "recipe.toml")
    if kind is None:
        if file_class(recipe.method["name"]) is not None:
            code = recipe.method["name"]
            raise ValueError(f"{entry.name} runs code from {code}; say so: give {code} as the model, or with -m")
        kind = resolved(TOOLS if recipe.division == "tool" else METHODS, recipe.method["name"], where)
    assert kind is not None
    task = make_task(recipe.task, where)
    # The initial weights are drawn and thrown away; a caller's random numbers must not depend on what was loaded before.
    with torch.random.fork_rng(devices=[]):
        method = _sized(entry, kind, task, where)
    code = code_hash(kind, recipe.net.get("name") if recipe.net else None)
    identity: dict[str, Any] = {"license": recipe.license, "recipe": recipe.identity(), "code_sha256": code}
    if any(True for _ in method.parameters()):
        file = str(entry.weights_path)
        saving.restore(method, saving.from_bytes(entry.read_weights(), file), recipe.train.storage, file)
        assert recipe.weights is not None
        identity["weights_sha256"] = recipe.weights.sha256
    require_closed_net(recipe, method, task, where)
    return Model(entry.name, task, _placed(method, device), recipe, identity)


def _sized(entry: Entry, kind: type[Method], task: Task, where: str) -> Method:
    """The untrained method of an entry, built after the header of its weight file was found to fit, within the memory this needs."""
    recipe, pinned = entry.recipe, entry.recipe.weights
    if pinned is None:
        return build(recipe, task, kind, where)
    header = entry.read_header()
    plan = outline(recipe, task, kind, where)
    if plan is not None:
        saving.require_fit(header, saving.layout(plan, recipe.train.storage), str(entry.weights_path))
    numbers = sum(math.prod(shape) for _, shape in header.values())
    method = build(recipe, task, kind, where, min(MOST_PARAMETERS, SPARE + 4 * numbers))
    _require_counted(method, pinned, numbers, where)
    return method


def _require_counted(method: Method, pinned: Weights, numbers: int, where: str) -> None:
    """Raise ValueError when a recipe pins weights that its method has no use for, or another number of parameters than there are."""
    if not any(True for _ in method.parameters()):
        raise ValueError(f"{where}: {type(method).__name__} has no parameters, and the recipe pins {pinned.file}")
    if pinned.parameters not in (numbers, parameters_in(method)):
        raise ValueError(f"{where} [weights]: parameters is {pinned.parameters:,}, and there are {numbers:,}")


def _placed(method: Method, device: str) -> Method:
    with foreign(f"device {device!r}"):
        return method.eval().to(device)


def load_hub(found: HubEntry, device: str, trust_remote_code: bool) -> Model:
    """The model of an entry on the Hub, whose weights are fetched; where it came from is part of its identity.

    Code of the repository is executed only with ``trust_remote_code`` and an address that names a commit. Raises ValueError in one line
    otherwise, and what :meth:`~fmbench.zoo.hub.HubEntry.fetch` and :func:`load_entry` raise.
    """
    if found.code is not None and not trust_remote_code:
        raise ValueError(
            f"{found.asked} runs code from {found.code[0]} in its repository; read it, then name its commit, {found.address}, "
            "together with --trust-remote-code"
        )
    kind = None if found.code is None else method_class(found.trusted_code())
    model = load_entry(found.fetch(), kind, device)
    model.identity.update(found.facts())
    return model


def load_code(spec: str, task: str, device: str) -> Model:
    """The model of a user's class that has no weights to load.

    ``spec`` is ``path/to/file.py:Class``, whose file is executed. Raises FileNotFoundError, which says how to train it, for a class with
    parameters, and ValueError in one line for whatever its code raises.
    """
    kind, definition = method_class(spec), make_task(task, spec)
    method = build(closed(definition, spec), definition, kind, spec)
    if any(True for _ in method.parameters()):
        raise FileNotFoundError(
            f"{spec} has no weights for {task}; make them with `fmbench train --method {spec} --task {task}`"
        )
    identity = {"code_sha256": code_hash(kind)}
    return Model(f"{task}/{kebab(kind.__name__)}", definition, _placed(method, device), None, identity)
