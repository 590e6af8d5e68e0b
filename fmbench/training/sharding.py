"""A global batch cut into rows: over processes, and into parts that fit into memory, with the loss and gradient of the whole.

The loss of a method is computed by every process on the whole batch (coupling, times, weights, targets), so it does not depend on how
the batch is cut. Only the network sees slices: every process evaluates its own rows, the outputs are put together, and the gradients of
the parameters, each the share of the own rows in the gradient of the whole loss, are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmbench.shapes import Condition


class Group(Protocol):
    """The processes that share a batch."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same bits on each."""
        ...


class Sharded:
    """The forward of a network on the rows of one process, part by part, in the place of the network's own.

    With several parts, activations are recomputed in the backward pass, so that those of one part are alive at a time, at the price of
    a second forward. Dropout masks are those of the whole batch. The state dict keeps its names.

    The network must treat rows independently (no batch normalisation), and between two calls in one loss rows must not mix.
    Forward-mode derivatives (torch.func.jvp) do not go through.

    Args:
        net: the network; its forward, accelerated or not, is replaced from now on.
        parts: parts per process.
        group: the processes, None for one.

    Raises ValueError when called with fewer rows than parts.
    """

    def __init__(self, net: nn.Module, parts: int, group: Group | None = None) -> None:
        self.net, self.parts, self.group = net, parts, group
        self.whole = net.forward
        self.dropouts = [m for m in net.modules() if isinstance(m, nn.Dropout)]
        self.calls = 0
        net.forward = self  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The output on the whole batch; gradients flow through the rows of this process only."""
        self.calls += 1
        rank, size = (0, 1) if self.group is None else (self.group.rank, self.group.size)
        edges = check_rows(len(x), size, self.parts)[rank * self.parts : (rank + 1) * self.parts + 1]
        masks = _random_state(x.device) if self.net.training and self.dropouts else None
        outputs = []
        for rows in pairwise(edges):
            if self.parts == 1:
                outputs.append(self._part(rows, masks, x, *args, **kwargs))
            else:
                outputs.append(checkpoint(self._part, rows, masks, x, *args, use_reentrant=False, **kwargs))
        own = torch.cat(outputs)
        if self.group is None:
            return own
        everyone = own.new_zeros((len(x), *own.shape[1:]))
        everyone[edges[0] : edges[-1]] = own.detach()
        everyone = self.group.sum(everyone)
        return torch.cat([everyone[: edges[0]], own, everyone[edges[-1] :]])

    def _part(self, rows: tuple[int, int], masks: list[Tensor] | None, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        start, stop = rows
        batch = len(x)

        def cut(given: Any) -> Any:
            if isinstance(given, Condition):
                return given.rows(slice(start, stop))
            return given[start:stop] if isinstance(given, Tensor) and given.ndim and len(given) == batch else given

        chosen, named = [cut(a) for a in (x, *args)], {name: cut(a) for name, a in kwargs.items()}
        if masks is None:
            return self.whole(*chosen, **named)
        _set_random_state(x.device, masks)
        with _rows_of_dropout(self.dropouts, start, stop, batch):
            return self.whole(*chosen, **named)

    def sum_gradients(self) -> None:
        """Make the gradients of the network those of the whole loss, after its backward pass.

        Raises ValueError when the loss did not call the network, so that every process already has the whole gradient.
        """
        called, self.calls = self.calls, 0
        if not called:
            raise ValueError(
                f"the loss never called {type(self.net).__name__}.forward, so its batch cannot be split; "
                "train with one process and accumulate 1"
            )
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        if self.group is None or not gradients:
            return
        total = self.group.sum(torch.cat([g.flatten() for g in gradients]))
        for gradient, summed in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def check_rows(batch: int, processes: int, parts: int) -> list[int]:
    """The edges of ``processes * parts`` slices of ``batch`` rows, whose sizes differ by one at most.

    Raises ValueError when a slice would be empty.
    """
    slices = processes * parts
    if slices > batch:
        raise ValueError(
            f"a batch of {batch} cannot be cut into {slices} slices (processes {processes} x accumulate {parts}); "
            f"at most {batch}"
        )
    return [k * batch // slices for k in range(slices + 1)]


@contextmanager
def _rows_of_dropout(layers: list[nn.Dropout], start: int, stop: int, batch: int) -> Iterator[None]:
    """Inside, every dropout layer draws the mask of the whole batch and uses the rows ``start`` to ``stop`` of it."""

    def forward_of(layer: nn.Dropout) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            mask = F.dropout(x.new_ones((batch, *x.shape[1:])), layer.p, layer.training)
            return x * mask[start:stop]

        return forward

    for layer in layers:
        layer.forward = forward_of(layer)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _random_state(device: torch.device) -> list[Tensor]:
    """State of torch's global generators, which dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
