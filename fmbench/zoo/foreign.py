"""Wrapping of external models: a velocity field of any library as a model of fmbench."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.execution.foreign import foreign, isolated
from fmbench.execution.state import state_hash
from fmbench.methods.base import VelocityMethod
from fmbench.records.names import check_entry_name
from fmbench.registry import TASKS
from fmbench.shapes import Labels, Points, Times
from fmbench.zoo.model import Model, evaluating

Call = Callable[[Any, Points, Times], Points]
DEEPEST = 4
"""Levels of functions, objects and containers that are searched for the modules that a function calls."""

MOST = 1000
"""Most items of a container that are searched: lists of networks are short, lists of numbers may have millions."""


class _Wrapped(VelocityMethod):
    """A foreign velocity field."""

    outside = False

    def networks(self) -> Mapping[str, nn.Module]:
        """The modules that the call evaluates, or those that the user named; a function without modules is counted itself."""
        adapter = self.net
        assert isinstance(adapter, _Adapter)
        if adapter.named:
            return adapter.named
        return {"network": adapter.parts if len(adapter.parts) else adapter}

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        raise ValueError("a wrapped module is already trained")


class _Adapter(nn.Module):
    """Calls a foreign module or function with its own signature, as a module so that its evaluations are counted."""

    place: Tensor
    named: Mapping[str, nn.Module]
    parts: nn.ModuleList

    def __init__(self, field: Callable[..., Any], call: Call, named: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.call = call
        self.__dict__["named"] = dict(named or {})
        # Not an attribute of its own: a module would be registered, and is, with every other that the field calls.
        self.__dict__["field"] = field
        self.parts = nn.ModuleList({id(part): part for part in (*modules_of(field), *modules_of(call))}.values())
        # A function has no parameters to tell the device that it shall run on.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def forward(self, x: Points, t: Times, labels: Labels | None = None) -> Points:
        try:
            return self.call(self.field, x, t)
        except RuntimeError as error:
            held = {p.dtype for p in self.parameters() if p.is_floating_point()} - {x.dtype}
            if held and "type" in str(error):
                names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in held))
                raise ValueError(
                    f"the module holds {names} and x and t arrive in float32; convert them in call, for example "
                    f"lambda m, x, t: m(x.{names.split(',')[0]}(), t.{names.split(',')[0]}()); torch said: {error}"
                ) from error
            raise


def modules_of(value: Any, depth: int = DEEPEST) -> list[nn.Module]:
    """The modules that a function calls, found in its closure, globals, defaults, bound object and bound arguments."""
    if isinstance(value, nn.Module):
        return [value]
    if depth == 0:
        return []
    inner: list[Any] = []
    if isinstance(value, MethodType):
        inner = [value.__self__, value.__func__]
    elif isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, FunctionType):
        seen = inspect.getclosurevars(value)
        inner = [*seen.nonlocals.values(), *seen.globals.values(), *(value.__defaults__ or ())]
    elif isinstance(value, list | tuple | dict):
        inner = list(value.values() if isinstance(value, dict) else value)[:MOST]
    elif not isinstance(value, type) and hasattr(value, "__dict__") and not inspect.ismodule(value):
        inner = [*vars(value).values(), type(value).__call__ if callable(value) else None]
    found: dict[int, nn.Module] = {}
    for part in inner:
        found.update({id(module): module for module in modules_of(part, depth - 1)})
    return list(found.values())


def _require_usable(field: Any, call: Any) -> None:
    """Raise ValueError in one line for an object that cannot be called as a velocity."""
    kind = type(field).__name__
    if isinstance(field, Model):
        raise ValueError(f"{field.name} is a model of fmbench already; evaluate it as it is")
    if isinstance(field, type):
        raise ValueError(f"wrap takes a trained module, got the class {field.__name__}; give an instance of it")
    if not callable(call):
        raise ValueError(f"call must be a function (module, x, t) -> dx/dt, got {type(call).__name__}")
    if not callable(field):
        raise ValueError(
            f"wrap takes a torch module or a function (x, t) -> dx/dt, got {kind}; what samples without a velocity is a "
            "class derived from fmbench.methods.Method"
        )


def _require_ready(net: nn.Module) -> None:
    """Raise ValueError in one line for modules that cannot be evaluated as they are."""
    for part in net.modules():
        name = type(part).__name__
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise ValueError(
                f"{name} spreads a batch over devices, where its evaluations cannot be counted; wrap its .module"
            )
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name.removeprefix('parts.0.')} has no shape yet (a lazy module); call the module once first"
            )
        if tensor.is_meta:
            raise ValueError(
                f"{name.removeprefix('parts.0.')} is on the meta device and holds no numbers; load the weights first"
            )


def wrap(
    module: nn.Module | Callable[..., Any],
    task: str,
    name: str,
    call: Call = lambda module, x, t: module(x, t),
    *,
    networks: Mapping[str, nn.Module] | None = None,
) -> Model:
    """Make a model of any velocity field: ``call(module, x, t)`` gets (batch, *shape) and (batch,), float32, and returns dx/dt.

    The module may be a function ``(x, t)`` too. It is referred to, not copied, and left as it is: whenever it is sampled or evaluated it is in
    evaluation mode, and afterwards in the modes that it was in, in all its parts. For a field with t = 0 at the data, pass
    ``lambda m, x, t: -m(x, 1 - t)``; a module in bfloat16 gets its arguments converted in ``call``.

    Evaluations are counted around the ``forward`` of the module, and of every module that ``call`` holds. ``networks`` names what to count
    instead, by purpose, where a model is not called through its forward or consists of several: ``{"network": m.unet, "decoder": m.vae}``.

    Raises UnknownName for an unknown task, ValueError in one line for a name that a model cannot have, for what is neither a module nor a
    function, and for modules without weights (lazy, on the meta device) or spread over devices.
    """
    check_entry_name(name)
    _require_usable(module, call)
    definition = TASKS.resolve(task)() if isinstance(task, str) else None
    if definition is None:
        raise ValueError(f"task must be the name of a task, got {type(task).__name__}")
    with foreign("wrap"), isolated():
        method = _Wrapped(_Adapter(module, call, networks))
        _require_ready(method.net)
        method.training = method.net.training = method.net.parts.training = False  # type: ignore[union-attr]
        identity = {"weights_sha256": state_hash(method.net), "code_sha256": None}
    return Model(f"{task}/{name}", definition, method, None, identity)


def as_it_is(model: Model) -> Model:
    """The model with the identity of its module's present weights: a wrapped one may have been trained on since it was wrapped."""
    if not isinstance(model.method, _Wrapped):
        return model
    with foreign(), isolated():
        return replace(model, identity={**model.identity, "weights_sha256": state_hash(model.method.net)})


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _put_back(table: Any, before: Any) -> None:
    if list(table.items()) != list(before.items()):
        table.clear()
        table.update(before)


@contextmanager
def lent(module: nn.Module, device: str | torch.device) -> Iterator[None]:
    """Context with the module on ``device`` and in evaluation mode; afterwards it is restored, also after an exception.

    Restored are the modes of all parts, parameters (the same tensors, on their device), their gradients and ``requires_grad``, buffers (the
    same tensors, with their values), and hooks.
    """
    parameters = [(p, p.data, p.requires_grad, p.grad) for p in module.parameters()]
    buffers = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    hooks = [
        (getattr(part, name), dict(getattr(part, name)))
        for part in module.modules()
        for name in _HOOKS
        if isinstance(getattr(part, name, None), dict)
    ]
    for parameter, *_ in parameters:
        parameter.grad = None
    try:
        with evaluating(module):
            module.to(device)
            yield
    finally:
        with torch.no_grad():
            for parameter, data, wanted, gradient in parameters:
                parameter.data = data
                if parameter.requires_grad != wanted:
                    parameter.requires_grad_(wanted)
                parameter.grad = gradient
            for part, name, buffer, before in buffers:
                part._buffers[name] = buffer
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        for table, before in hooks:
            _put_back(table, before)
