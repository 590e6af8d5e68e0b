"""A method whose networks evaluate their batch in slices: over processes, and in parts that fit into memory.

The loss of a method is computed by every process on the whole batch (coupling, times, weights, targets), so it does not depend on how
the batch is cut. Only networks see slices. What :class:`Sharded` computes is the network itself, as a function and in every derivative
(:mod:`~fmbench.training.piecewise`), so a loss may call several networks, several times, with any rows, in a torch.func transform, and
mix rows between calls; every gradient is that of the whole batch, on every process.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fmbench.training.masks import CannotBeCut, NothingElseDrawn, OwnRows, random_state, same_draws, set_random_state
from fmbench.training.piecewise import Cut, Function, Group, Rows, Tensors, check_rows, piecewise

__all__ = ["Cut", "Group", "Sharded", "check_rows", "in_slices", "require_called"]

_PROBED = 8
"""Number of rows on which a network is tested for mixing rows."""
_TOLERANCE = 0.05
"""Relative difference of a row alone and among others, beyond what kernels of other sizes round and bfloat16 hides."""


class Sharded(nn.Module):
    """A network that evaluates its own slices of every batch it is given: the same outputs and derivatives, up to rounding.

    Takes what the network takes; tensors with as many rows as the first one are cut, also in tables, sequences and dataclasses.
    Activations are recomputed in the backward pass, slice by slice. Dropout masks are those of the whole batch. The parameters are those
    of the network itself, whose attributes can be read here too.

    Raises ValueError in the first call for a network that mixes the rows of a batch, changes its buffers, returns anything but rows, or
    draws random numbers other than for dropout, and for fewer rows than slices.
    """

    def __init__(self, net: nn.Module, cut: Cut) -> None:
        super().__init__()
        self.net, self.cut = net, cut
        self.calls = 0
        self.training = net.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the network on the whole batch; without a tensor of rows among its arguments, there is nothing to cut."""
        given = list(_tensors((args, kwargs)))
        if not given or not given[0].ndim:
            return self.net(*args, **kwargs)
        names, parameters = zip(*self.net.named_parameters(), strict=True)
        call = _Call(self.net, names, (args, kwargs), given, probe=not self.calls)
        if self.cut.parts == 1 and torch.is_grad_enabled():
            call.differentiated = tuple(k for k, t in enumerate((*parameters, *given)) if t.requires_grad)
        self.calls += 1
        outputs = piecewise(call, self.cut, *parameters, *given)
        if call.after is not None:
            set_random_state(call.device, call.after)
        return _rebuilt(call.structure, outputs)


@cache
def _kind(net: type[nn.Module]) -> type[Sharded]:
    """Subclass of :class:`Sharded` with the name and the signature of a network class, so that inspection gives the same answer."""

    @wraps(net.forward)
    def forward(self: Sharded, *args: Any, **kwargs: Any) -> Any:
        return Sharded.forward(self, *args, **kwargs)

    return type(net.__name__, (Sharded,), {"forward": forward})


class _Call(Function):
    """One call of a network, as a function of its parameters and of the tensors among its arguments."""

    def __init__(
        self, net: nn.Module, names: Sequence[str], arguments: Any, given: Sequence[Tensor], probe: bool
    ) -> None:
        self.net, self.names, self.arguments, self.probe = net, names, arguments, probe
        self.device, self.batch = given[0].device, len(given[0])
        self.rowed = (*(False for _ in names), *(t.ndim > 0 and len(t) == self.batch for t in given))
        self.summed: Sequence[bool] = ()
        self.structure: Any = None
        self.before = random_state(self.device) if net.training else None
        self.after: list[Tensor] | None = None
        kind = self.device.type
        self.autocast = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}

    def __call__(self, rows: Rows, *inputs: Tensor) -> Tensors:
        """The tensors that the network returns for one slice."""
        return self._under(OwnRows(rows), inputs)

    def _under(self, own: OwnRows, inputs: Sequence[Tensor], *modes: AbstractContextManager[Any]) -> Tensors:
        parameters = dict(zip(self.names, inputs, strict=False))
        args, kwargs = _rebuilt(self.arguments, inputs[len(self.names) :])
        with ExitStack() as stack:
            # Weights that the first pass has cast, without a graph, are of no use to the second.
            cast = torch.autocast(self.device.type, cache_enabled=False, **self.autocast)
            for context in (same_draws(self.before, self.device), cast, own, *modes):
                stack.enter_context(context)
            try:
                found = functional_call(self.net, parameters, args, kwargs)
            except CannotBeCut as error:
                raise ValueError(_refused(self.net, str(error))) from None
            self.after = None if self.before is None else random_state(self.device)
        outputs = tuple(_tensors(found))
        if not outputs or any(not y.ndim or len(y) != own.rows.stop - own.rows.start for y in outputs):
            raise ValueError(_refused(self.net, "returns something that has not the rows of its input"))
        self.summed, self.structure = (False,) * len(outputs), found
        return outputs

    def check(self, *inputs: Tensor) -> None:
        """Check the first call: raise ValueError when a row's output depends on other rows, or a call changes buffers or draws numbers.

        Weights are perturbed: initially, the last layer of many networks is 0 and would hide a dependence.
        """
        if not self.probe:
            return
        random = torch.Generator().manual_seed(0)
        shaken = [p + _noise(p, random) for p in inputs[: len(self.names)]]
        rest = list(zip(inputs, self.rowed, strict=True))[len(shaken) :]
        versions = [(id(b), b._version) for b in self.net.buffers()]
        results = []
        for count in (min(_PROBED, self.batch), 1):
            own = OwnRows(Rows(0, count, self.batch))
            sliced = (*shaken, *(t[:count] if rowed else t for t, rowed in rest))
            results.append(self._under(own, sliced, NothingElseDrawn(own)))
            if versions != [(id(b), b._version) for b in self.net.buffers()]:
                raise ValueError(_refused(self.net, "changes its buffers while it trains (statistics of a batch?)"))
        for several, alone in zip(*results, strict=True):
            near = _TOLERANCE * float(several.abs().max())
            if not torch.allclose(several[:1], alone, rtol=0, atol=near, equal_nan=True):
                raise ValueError(_refused(self.net, "mixes the rows of a batch (statistics of a batch?)"))


def _noise(parameter: Tensor, random: torch.Generator) -> Tensor:
    """Normal numbers scaled so that a layer roughly preserves the size of its input."""
    inputs = parameter.numel() / len(parameter) if parameter.ndim > 1 else 25.0
    return torch.randn(parameter.shape, generator=random).to(parameter) * (0.5 / max(inputs, 1.0) ** 0.5)


def _refused(net: nn.Module, what: str) -> str:
    return f"{type(net).__name__} {what}, so its batch cannot be cut; train with one process and accumulate 1"


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, in order."""
    found: list[Tensor] = []
    _changed(value, lambda tensor: found.append(tensor) or tensor)
    yield from found


def _rebuilt(value: Any, tensors: Sequence[Tensor]) -> Any:
    """The value with its tensors, in order, replaced."""
    rest = iter(tensors)
    return _changed(value, lambda _: next(rest))


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_changed(v, change) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_changed(v, change) for v in value)
    if isinstance(value, Mapping):
        return {k: _changed(v, change) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        return dataclasses.replace(value, **{name: _changed(getattr(value, name), change) for name in fields})
    return value


def in_slices(method: nn.Module, cut: Cut) -> tuple[Any, list[Sharded]]:
    """The method with every network in it sharded, and these networks. The method itself stays as it is; parameters and buffers are shared.

    A network is a module that has parameters and can be called; modules inside one are part of it.
    """
    made: dict[int, nn.Module] = {}

    def view(module: nn.Module, root: bool = False) -> nn.Module:
        if id(module) not in made:
            callable_ = type(module).forward is not nn.Module.forward
            if not any(True for _ in module.parameters()):
                made[id(module)] = module
            elif callable_ and not root:
                made[id(module)] = _kind(type(module))(module, cut)
            else:
                shallow = copy.copy(module)
                shallow.__dict__["_modules"] = {
                    name: None if child is None else view(child) for name, child in module._modules.items()
                }
                made[id(module)] = shallow
        return made[id(module)]

    return view(method, root=True), [m for m in made.values() if isinstance(m, Sharded)]


def require_called(method: str, networks: Sequence[Sharded]) -> None:
    """Raise ValueError when a loss called none of the networks, so that nothing of it was cut."""
    if not any(network.calls for network in networks):
        names = ", ".join(type(network.net).__name__ for network in networks) or "a network"
        raise ValueError(
            f"the loss of {method} never called {names}, so its batch cannot be cut; train with one process and accumulate 1"
        )
