"""Network evaluations, counted around the forward of the networks themselves, so that NFE is measured and never declared.

While counting, the ``forward`` of every network is replaced *on the instance*: ``net(x, t)``, ``net.forward(x, t)``, functional calls, Jacobian
products, maps over batches, and traced, scripted or compiled networks all pass through it. Forward hooks miss half of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch._C import _functorch  # type: ignore[attr-defined]

NETWORK, GUIDANCE, GRADIENT = "network", "guidance", "gradient"
_PURPOSE: ContextVar[str | None] = ContextVar("purpose", default=None)


@dataclass
class Evaluations:
    """Rows that went through networks, by purpose; divided by the number of samples they are the NFE.

    Attributes:
        rows: ``network`` for the model itself, ``guidance`` for a second pass that guides it, ``gradient`` for backward passes, and the other
            purposes that a flow names (``head``, ``decoder``, ...).
        inside: how many counted calls are open: an operation is a network's own where this is not 0.
    """

    rows: dict[str, int] = field(default_factory=lambda: {NETWORK: 0, GUIDANCE: 0})
    inside: int = 0

    def add(self, purpose: str, rows: int) -> None:
        """Count ``rows`` more."""
        self.rows[purpose] = self.rows.get(purpose, 0) + rows

    @property
    def network(self) -> int:
        """Rows of the model itself."""
        return self.rows[NETWORK]

    @property
    def guidance(self) -> int:
        """Rows of the second pass that guides it."""
        return self.rows[GUIDANCE]

    @property
    def total(self) -> int:
        """Rows of all purposes."""
        return sum(self.rows.values())


@contextmanager
def counted_as(purpose: str) -> Iterator[None]:
    """Context in which calls of the network itself count for ``purpose``: the same weights may serve two purposes."""
    token = _PURPOSE.set(purpose)
    try:
        yield
    finally:
        _PURPOSE.reset(token)


def rows_of(x: Tensor) -> int:
    """Rows of a batch, those of enclosing ``torch.func.vmap`` levels included; 1 for a tensor without dimensions."""
    rows = len(x) if x.ndim else 1
    while _functorch.is_functorch_wrapped_tensor(x):
        level = _functorch.maybe_get_bdim(x) if _functorch.is_batchedtensor(x) else -1
        x = _functorch.get_unwrapped(x)
        if level >= 0:
            rows *= x.shape[level]
    return rows


def batch_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], dimensions: int) -> int:
    """Rows of a call: of the first tensor with as many dimensions as the state, else of the first tensor.

    Raises ValueError when a call has no tensor, so that its number of rows is unknown.
    """
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not tensors:
        raise ValueError("a network was called without a tensor, so its evaluations cannot be counted")
    return rows_of(next((x for x in tensors if x.ndim == dimensions), tensors[0]))


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


def _members(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that are called: a list or table of networks has no forward of its own."""
    if isinstance(module, nn.DataParallel):
        raise ValueError(
            "torch.nn.DataParallel copies its network, so its evaluations cannot be counted; pass the network inside it"
        )
    if isinstance(module, nn.ModuleList):
        for member in module:
            yield from _members(member)
    elif isinstance(module, nn.ModuleDict):
        for member in module.values():
            yield from _members(member)
    else:
        yield module


def _counted(forward: Callable[..., Any], purpose: str, dimensions: int, count: Evaluations) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if count.inside:
            return forward(*args, **kwargs)
        asked = _PURPOSE.get()
        why = asked if asked is not None and purpose == NETWORK else purpose
        count.add(why, batch_of(args, kwargs, dimensions))
        count.inside += 1
        try:
            output = forward(*args, **kwargs)
        finally:
            count.inside -= 1
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: count.add(GRADIENT, rows_of(gradient)))
                break
        return output

    return call


@contextmanager
def counting(networks: Mapping[str, nn.Module], dimensions: int) -> Iterator[Evaluations]:
    """Count the rows through networks, by purpose.

    Only the outermost call counts: a network inside another that is counted is a part of it. The networks are as before afterwards.

    Args:
        networks: purpose -> network, list or table of networks.
        dimensions: of a batch of states, the batch included.

    Raises ValueError for a network whose calls cannot be seen.
    """
    count = Evaluations()
    replaced: list[tuple[dict[str, Any], Any]] = []
    try:
        for purpose, module in networks.items():
            for member in _members(module):
                # Into the dictionary: scripted and compiled modules redirect what is set as an attribute.
                replaced.append((vars(member), vars(member).get("forward")))
                vars(member)["forward"] = _counted(member.forward, purpose, dimensions, count)
        yield count
    finally:
        for table, before in reversed(replaced):
            if before is None:
                table.pop("forward", None)
            else:
                table["forward"] = before


def require_counted(count: Evaluations, parameters: int) -> None:
    """Raise ValueError when a model with ``parameters`` was sampled without one evaluation: its calls were not seen."""
    if parameters and not count.total:
        raise ValueError(
            f"no evaluation of the model's {parameters:,} parameters was seen while it sampled; call the network itself, not a copy of it"
        )
