"""Optimisers by name: functions (parameters, lr=, weight_decay=, **options) -> torch optimiser, whose options are keys of a recipe.

``lr`` is the peak learning rate; the training loop sets the rate of every step. An optimiser from outside registers in the entry point group
``fmbench.optimisers``, as such a function or as a subclass of ``torch.optim.Optimizer``; its state has the same names after every step.
"""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fmbench.execution.foreign import ForeignError
from fmbench.records.recipe import Training
from fmbench.records.tables import check_table, parameters_of, required_of
from fmbench.registry import OPTIMISERS
from fmbench.zoo.building import in_words, resolved

_GIVEN = ("lr", "weight_decay")
"""Options set by the training budget."""


def adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Adam with decoupled weight decay: Loshchilov and Hutter, 1711.05101."""
    return AdamW(parameters, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay, fused=True)


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Kingma and Ba, 1412.6980; weight decay is added to the gradient."""
    return Adam(parameters, lr=lr, betas=_pair(betas), eps=eps, weight_decay=weight_decay, fused=True)


def sgd(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    """Gradient descent with momentum; weight decay is added to the gradient."""
    return SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


def _pair(betas: tuple[float, float]) -> tuple[float, float]:
    """Arrays of TOML are lists; a checkpoint is compared with what the optimiser holds."""
    first, second = betas
    return first, second


def options_of(factory: Any) -> tuple[dict[str, Any] | None, list[str]]:
    """The options of an optimiser with their hints (None: any), and those without a default. Raises ValueError for unreadable hints."""
    if isinstance(factory, type):
        first = next(iter(inspect.signature(factory).parameters))
        skip = ("self", first, *_GIVEN)
        return parameters_of(factory, skip), required_of(factory, skip)
    _, *parameters = inspect.signature(factory).parameters.values()
    named = [p for p in parameters if p.name not in _GIVEN and p.kind is not p.VAR_KEYWORD]
    required = [p.name for p in named if p.default is p.empty]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None, required
    hints = typing.get_type_hints(factory)
    return {p.name: hints.get(p.name, Any) for p in named}, required


def check_optimiser(config: Training, where: str) -> Any:
    """The function or class that makes the optimiser of a training budget.

    Raises UnknownName with the nearest names, ValueError for options that it does not have, ForeignError for a plug-in that fails; each
    one line after ``where``.
    """
    factory = resolved(OPTIMISERS, config.optimiser, f"{where} [train]")
    with in_words(f"{where}: optimiser {config.optimiser}"):
        allowed, required = options_of(factory)
    table = f"{where} [train.optimiser_options]"
    if allowed is not None:
        check_table(config.optimiser_options, allowed, table)
    missing = [name for name in required if name not in config.optimiser_options]
    if missing:
        raise ValueError(f"{table}: missing {', '.join(missing)}")
    return factory


def make_optimiser(config: Training, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser of a training budget for these parameters.

    Raises what :func:`check_optimiser` raises, and ForeignError in one line for whatever the optimiser raises, for one that is no torch
    optimiser, and for one that leaves parameters out.
    """
    factory, where = check_optimiser(config, "recipe"), f"optimiser {config.optimiser}"
    parameters = list(parameters)
    with in_words(where):
        made = factory(parameters, lr=config.lr, weight_decay=config.weight_decay, **config.optimiser_options)
    if not isinstance(made, Optimizer):
        raise ForeignError(f"{where} must be a torch.optim.Optimizer, got {type(made).__name__}")
    held = {id(p) for group in made.param_groups for p in group["params"]}
    left_out = sum(id(p) not in held for p in parameters)
    if left_out:
        raise ForeignError(f"{where} leaves out {left_out} of {len(parameters)} parameters")
    return made


def state_after_a_step(config: Training, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """The state dict, on the CPU, of the optimiser after one step of copies of the parameters along a gradient of 0: what a checkpoint holds."""
    copies = [nn.Parameter(torch.zeros_like(p, device="cpu"), requires_grad=p.requires_grad) for p in parameters]
    optimiser = make_optimiser(config, copies)
    for parameter in copies:
        parameter.grad = torch.zeros_like(parameter)
    with in_words(f"optimiser {config.optimiser}"):
        optimiser.step()
        return copy.deepcopy(optimiser.state_dict())
