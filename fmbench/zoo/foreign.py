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
from fmbench.flows.converted import Deployed, Grid, Reading, reading, said
from fmbench.methods.base import VelocityMethod
from fmbench.paths.schedules import Schedule
from fmbench.records.names import check_entry_name
from fmbench.registry import TASKS
from fmbench.shapes import Condition, Points, Times
from fmbench.zoo.model import Model, evaluating

Call = Callable[..., Any]
DEEPEST = 4
"""Levels of functions, objects and containers that are searched for the modules that a function calls."""

MOST = 1000
"""Most items of a container that are searched: lists of networks are short, lists of numbers may have millions."""


class _Wrapped(Deployed, VelocityMethod):
    """A foreign network, read as a velocity field."""

    outside = False

    def __init__(self, net: nn.Module, how: Reading) -> None:
        super().__init__(net)
        self.reading = how
        # Networks of class-conditional libraries know a null label, so that they can be guided.
        self.label_dropout = 1.0 if getattr(net, "num_classes", 0) else 0.0

    def velocity(self, x: Points, t: Times, cond: Condition | None = None, guidance: float = 1.0) -> Points:
        """The velocity on the linear path, whatever the network predicts."""
        ask = super().velocity
        return self.reading.velocity(lambda y, time: ask(y, time, cond, guidance), x, t)

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
    num_classes: int
    named: Mapping[str, nn.Module]
    parts: nn.ModuleList

    def __init__(
        self,
        field: Callable[..., Any],
        call: Call,
        named: Mapping[str, nn.Module] | None = None,
        classes: int = 0,
        null: int | None = None,
    ) -> None:
        super().__init__()
        self.call, self.num_classes = call, classes
        self.null = classes if null is None else null
        self.__dict__["named"] = dict(named or {})
        # Not an attribute of its own: a module would be registered, and is, with every other that the field calls.
        self.__dict__["field"] = field
        self.parts = nn.ModuleList({id(part): part for part in (*modules_of(field), *modules_of(call))}.values())
        # A function has no parameters to tell the device that it shall run on.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def forward(self, x: Points, t: Times, *, r: Times | None = None, cond: Condition | None = None) -> Points:
        """The network's own answer; without a label, a conditional one gets its null label."""
        try:
            if not self.num_classes:
                return said(self.call(self.field, x, t))
            labels = None if cond is None else cond.labels
            if labels is None:
                labels = torch.full((len(x),), self.null, dtype=torch.long, device=x.device)
            return said(self.call(self.field, x, t, labels))
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


def _in_order(arguments: str) -> Call:
    if arguments == "tx":
        return lambda module, x, t, *labels: module(t, x, *labels)
    return lambda module, x, t, *labels: module(x, t, *labels)


def wrap(
    module: nn.Module | Callable[..., Any],
    task: str,
    name: str,
    call: Call | None = None,
    *,
    predicts: str = "velocity",
    schedule: str | Schedule = "linear",
    time: str | None = None,
    time_scale: float = 1.0,
    arguments: str = "xt",
    conditional: bool = False,
    null: int | None = None,
    grid: Grid | None = None,
    networks: Mapping[str, nn.Module] | None = None,
) -> Model:
    """Make a model of a network of any library: ``call(module, x, t)`` gets (batch, *shape) and (batch,), float32, and returns its prediction.

    Args:
        module: a torch module, or a function ``(x, t)``.
        task, name: what it is evaluated on, and how results call it.
        call: how it is called, where that is neither ``module(x, t)`` nor what ``arguments`` says; with ``conditional`` it gets labels too.
        predicts: what it returns: "velocity" (by its own clock), "noise", "data", "score", "v" (a eps - m x1), or "edm" (the denoised points).
        schedule: its path x = a x1 + m eps: "linear", "trig", "vp", "ve", "edm", "ddpm", or one of :mod:`fmbench.paths.schedules` with constants
            of its own.
        time: the clock its time argument shows: "data_at_1" or "data_at_0", from 0 to 1, "sigma" or "log_sigma_4" (ve, edm), "index" (ddpm); by
            default the first that the schedule has.
        time_scale: factor of that argument.
        arguments: "xt" or "tx", for ``module(t, x)``.
        conditional: whether it takes class labels as its third argument; ``null`` is its label for none, by default the number of classes.
        grid: times that it is deployed with, by that clock before scaling, from noise to data, or a function of the number of steps. Euler along
            them is DDIM, or Euler of EDM, exactly; without a grid steps are equal on the linear path.
        networks: what to count, see below.

    Whatever it predicts is evaluated as the velocity of the linear path (:func:`fmbench.paths.conversions.linear_velocity`). The module is
    referred to, not copied, and left as it is: whenever it is sampled or evaluated it is in evaluation mode, and afterwards in the modes that
    it was in, in all its parts. One in bfloat16 gets its arguments converted in ``call``.

    Evaluations are counted around the ``forward`` of the module, and of every module that ``call`` holds. ``networks`` names what to count
    instead, by purpose, where a model is not called through its forward or consists of several: ``{"network": m.unet, "decoder": m.vae}``.

    Raises UnknownName for an unknown task, ValueError in one line for words that do not go together, for a name that a model cannot have, for
    what is neither a module nor a function, and for modules without weights (lazy, on the meta device) or spread over devices.
    """
    check_entry_name(name)
    how = reading(predicts, schedule, time, time_scale, arguments, grid)
    if call is not None and arguments != "xt":
        raise ValueError("arguments says how the module is called, and so does call; give one of them")
    call = _in_order(arguments) if call is None else call
    _require_usable(module, call)
    definition = TASKS.resolve(task)() if isinstance(task, str) else None
    if definition is None:
        raise ValueError(f"task must be the name of a task, got {type(task).__name__}")
    classes = definition.num_classes if conditional else 0
    if conditional and not classes:
        raise ValueError(f"conditional needs a task with classes, and {task} has none")
    if how.plain is False and not definition.gaussian_source:
        raise ValueError(
            f"{predicts} on {schedule} has Gaussian noise at its start, and the source of {task} is another"
        )
    with foreign("wrap"), isolated():
        method = _Wrapped(_Adapter(module, call, networks, classes, null), how)
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
