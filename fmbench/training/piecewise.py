"""Functions of a batch evaluated piece by piece, with derivatives of every order and mode that are evaluated piece by piece too.

Let ``f(w, x) = y`` treat rows independently: ``y`` has the rows of ``x``, and ``w`` is shared. Its derivatives are again functions whose
outputs are rows, or sums over rows:

    vjp:  (w, x; ybar) -> (sum over rows of wbar, rows of xbar)
    jvp:  (w, x; w', x') -> rows of y'

so that one rule, :class:`_Piecewise`, is enough: it evaluates a function on slices, puts rows together and adds sums up, in this process
and over all of them; its derivatives are itself, on the derivative of the function. Only the inputs are saved. Activations are those of
one slice at a time, and every gradient that comes out is the whole one, the same on every process.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Group(Protocol):
    """The processes that share a batch."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same bits on each."""
        ...


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a batch of ``batch``."""

    start: int
    stop: int
    batch: int


@dataclass(frozen=True)
class Cut:
    """The partition of a batch: ``parts`` slices for each process of ``group`` (None for one process)."""

    parts: int
    group: Group | None = None

    def own(self, batch: int) -> list[Rows]:
        """The slices of this process. Raises ValueError when a slice would be empty."""
        rank, size = (0, 1) if self.group is None else (self.group.rank, self.group.size)
        edges = check_rows(batch, size, self.parts)[rank * self.parts : (rank + 1) * self.parts + 1]
        return [Rows(start, stop, batch) for start, stop in zip(edges[:-1], edges[1:], strict=True)]


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


class Function(ABC):
    """A pure function of tensors that treats rows independently.

    Attributes:
        batch: rows of the batch.
        rowed: which inputs are cut into rows; the others are shared by all rows.
        summed: which outputs are sums over rows; the others have the rows of the batch. Known after the first evaluation.
        differentiated: inputs by which a single slice will be differentiated, so that its graph is cached and not built twice. None for none.
    """

    batch: int
    rowed: Sequence[bool]
    summed: Sequence[bool]
    differentiated: Sequence[int] | None = None
    kept: tuple[dict[int, Tensor], Tensors] | None = None

    @abstractmethod
    def __call__(self, rows: Rows, *inputs: Tensor) -> Tensors:
        """The outputs for one slice, whose rowed inputs are cut already. Built from functions that torch.func transforms."""

    def evaluate(self, rows: Rows, *inputs: Tensor) -> Tensors:
        """The outputs for one slice, evaluated outside every transform; the graph is cached when ``differentiated`` is set."""
        if self.differentiated is None:
            return self(rows, *inputs)
        with torch.enable_grad():
            leaves = {k: inputs[k].detach().requires_grad_() for k in self.differentiated}
            outputs = self(rows, *_replaced(inputs, leaves))
        self.kept = leaves, outputs
        return tuple(y.detach() for y in outputs)

    def graph(self, rows: Rows, inputs: Sequence[Tensor], by: Sequence[int]) -> tuple[list[Tensor], Tensors]:
        """The inputs in ``by`` as leaves of a graph, and the outputs: cached ones if available, else computed."""
        kept, self.kept = self.kept, None
        if kept is not None and set(by) <= set(kept[0]):
            return [kept[0][k] for k in by], kept[1]
        leaves = {k: inputs[k].detach().requires_grad_() for k in by}
        return list(leaves.values()), self(rows, *_replaced(inputs, leaves))

    def check(self, *inputs: Tensor) -> None:  # noqa: B027 - most functions have nothing to check
        """Raise ValueError when the function does not treat rows independently; gets the whole inputs, outside every transform."""


class Vjp(Function):
    """(inputs, cotangents) -> (gradients of the inputs in ``needed``, which of them there are)."""

    def __init__(self, of: Function, needed: Sequence[int]) -> None:
        self.of, self.needed, self.batch = of, tuple(needed), of.batch
        self.rowed = (*of.rowed, *(not summed for summed in of.summed))
        self.summed = (*(not of.rowed[k] for k in self.needed), True)

    def __call__(self, rows: Rows, *inputs: Tensor) -> Tensors:
        """See the class."""
        primals, cotangents = inputs[: len(self.of.rowed)], inputs[len(self.of.rowed) :]

        def partial(*chosen: Tensor) -> Tensors:
            return self.of(rows, *_replaced(primals, dict(zip(self.needed, chosen, strict=True))))

        pullback = torch.func.vjp(partial, *(primals[k] for k in self.needed))[1]
        return (*pullback(cotangents), cotangents[0].new_ones(len(self.needed)).detach())

    def evaluate(self, rows: Rows, *inputs: Tensor) -> Tensors:
        """Evaluate by a plain backward pass, which also distinguishes unused inputs from gradients of 0."""
        primals, cotangents = inputs[: len(self.of.rowed)], inputs[len(self.of.rowed) :]
        with torch.enable_grad():
            chosen, outputs = self.of.graph(rows, primals, self.needed)
            pairs = [(y, ybar) for y, ybar in zip(outputs, cotangents, strict=True) if y.requires_grad]
            found: Sequence[Tensor | None] = [None] * len(chosen)
            if pairs:
                found = torch.autograd.grad([y for y, _ in pairs], chosen, [bar for _, bar in pairs], allow_unused=True)
        gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(chosen, found, strict=True)]
        used = torch.tensor([float(g is not None) for g in found]).to(cotangents[0])
        return (*(g.detach() for g in gradients), used)


class Jvp(Function):
    """(inputs, tangents of the inputs in ``moved``) -> tangents of the outputs."""

    def __init__(self, of: Function, moved: Sequence[int]) -> None:
        self.of, self.moved, self.batch = of, tuple(moved), of.batch
        self.rowed = (*of.rowed, *(of.rowed[k] for k in self.moved))
        self.summed = of.summed

    def __call__(self, rows: Rows, *inputs: Tensor) -> Tensors:
        """See the class."""
        primals, tangents = inputs[: len(self.of.rowed)], inputs[len(self.of.rowed) :]

        def partial(*chosen: Tensor) -> Tensors:
            return self.of(rows, *_replaced(primals, dict(zip(self.moved, chosen, strict=True))))

        chosen = tuple(primals[k] for k in self.moved)
        try:
            return torch.func.jvp(partial, chosen, tangents)[1]
        except RuntimeError as error:
            if "Nested forward mode" not in str(error):
                raise
        # Inside torch.autograd.forward_ad no other forward pass can begin: the derivative of the pullback, which is linear.
        outputs, pullback = torch.func.vjp(partial, *chosen)[:2]
        forward = torch.func.vjp(pullback, tuple(torch.zeros_like(y) for y in outputs))[1]
        return forward(tangents)[0]


def _replaced(values: Sequence[Tensor], by: Mapping[int, Tensor]) -> list[Tensor]:
    return [by.get(place, value) for place, value in enumerate(values)]


def piecewise(function: Function, cut: Cut, *inputs: Tensor) -> Tensors:
    """The outputs of ``function`` on the whole batch, differentiable to any order, in reverse and forward mode, under torch.func too."""
    return _Piecewise.apply(function, cut, *inputs)  # pyright: ignore[reportReturnType]


class _Piecewise(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(function: Function, cut: Cut, *inputs: Tensor) -> Tensors:
        pieces = []
        inputs = tuple(x.detach() for x in inputs)
        function.check(*inputs)
        for rows in cut.own(function.batch):
            sliced = [x[rows.start : rows.stop] if r else x for x, r in zip(inputs, function.rowed, strict=True)]
            pieces.append(function.evaluate(rows, *sliced))
        return _together(pieces, function, cut)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        ctx.function, ctx.cut = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        needed = [k for k, need in enumerate(ctx.needs_input_grad[2:]) if need]
        *gradients, used = piecewise(Vjp(ctx.function, needed), ctx.cut, *ctx.saved_tensors, *cotangents)
        found: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        for k, gradient, there in zip(needed, gradients, _flags(used), strict=True):
            # A parameter that no row used has no gradient, as in one piece: an optimiser leaves it alone.
            found[k] = gradient if there else None
        return (None, None, *found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        moved = [k for k, tangent in enumerate(tangents[2:]) if tangent is not None]
        given = [tangents[2 + k] for k in moved]
        return piecewise(Jvp(ctx.function, moved), ctx.cut, *ctx.saved_tensors, *given)  # pyright: ignore[reportArgumentType]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], function: Function, cut: Cut, *inputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One evaluation after another: right, and no faster than a loop."""
        # Each has a graph of its own to keep; the one that the caller knows is the last.
        functions = [*(copy.copy(function) for _ in range(info.batch_size - 1)), function]
        each = [
            piecewise(own, cut, *(x if d is None else x.select(d, k) for x, d in zip(inputs, in_dims[2:], strict=True)))
            for k, own in enumerate(functions)
        ]
        outputs = tuple(torch.stack(found) for found in zip(*each, strict=True))
        return outputs, (0,) * len(outputs)


def _flags(used: Tensor) -> list[bool]:
    """Whether each number is not 0; True for all where a transform (vmap) hides the numbers."""
    try:
        return [bool(flag) for flag in used.tolist()]
    except RuntimeError:
        return [True] * used.shape[-1]


def _together(pieces: list[Tensors], function: Function, cut: Cut) -> Tensors:
    """Rows of all slices in order, sums added up; with several processes in one message for each dtype."""
    own = cut.own(function.batch)
    outputs = []
    for values, summed in zip(zip(*pieces, strict=True), function.summed, strict=True):
        if summed:
            outputs.append(_sum(values))
        elif cut.group is None:
            outputs.append(torch.cat(values))
        else:
            whole = values[0].new_zeros((function.batch, *values[0].shape[1:]))
            whole[own[0].start : own[-1].stop] = torch.cat(values)
            outputs.append(whole)
    return tuple(outputs if cut.group is None else _sum_over(cut.group.sum, outputs))


def _sum(values: Sequence[Tensor]) -> Tensor:
    total = values[0].clone()
    for value in values[1:]:
        total += value
    return total


def _sum_over(add: Callable[[Tensor], Tensor], tensors: list[Tensor]) -> list[Tensor]:
    found = list(tensors)
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        places = [k for k, t in enumerate(tensors) if t.dtype == dtype]
        total = add(torch.cat([tensors[k].flatten() for k in places]))
        for k, part in zip(places, total.split([tensors[k].numel() for k in places]), strict=True):
            found[k] = part.view_as(tensors[k])
    return found
