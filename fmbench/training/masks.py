"""Dropout of a slice of a batch: the rows of the mask of the whole batch. Other random numbers of a network are found, to be refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fmbench.execution.operators import OperatorMode
from fmbench.training.piecewise import Rows

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}


class CannotBeCut(Exception):
    """A network uses random numbers in a way that cannot be evaluated in slices of a batch."""


class OwnRows(TorchFunctionMode):
    """Context in which dropout draws the mask of the whole batch and uses the rows of the slice. Raises CannotBeCut for other shapes."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.drawing = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DROPOUTS:
            return self._dropout(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return x
        if x.ndim == 0 or len(x) != self.rows.stop - self.rows.start:
            raise CannotBeCut("drops out something that has not the rows of its input")
        self.drawing = True
        try:
            mask = func(x.new_ones((self.rows.batch, *x.shape[1:])), p, training)[self.rows.start : self.rows.stop]
        finally:
            self.drawing = False
        return x.mul_(mask) if inplace else x * mask


class NothingElseDrawn(OperatorMode):
    """Context in which an operation that draws random numbers raises CannotBeCut, except the masks of ``own``."""

    def __init__(self, own: OwnRows) -> None:
        super().__init__()
        self.own = own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and not self.own.drawing and _draws(func, args, kwargs or {}):
            raise CannotBeCut(f"draws random numbers with {func._schema.name.removeprefix('aten::')}")
        return func(*args, **(kwargs or {}))


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation that may draw does: attention and recurrent layers without dropout do not."""
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    rates = [given.get(a.name, a.default_value) for a in func._schema.arguments if a.name in ("dropout_p", "dropout")]
    return not rates or any(rates)


@contextmanager
def same_draws(state: list[Tensor] | None, device: torch.device) -> Iterator[None]:
    """Context in which torch's global generators start from ``state`` (None: unchanged) and are restored afterwards."""
    if state is None:
        yield
        return
    before = random_state(device)
    set_random_state(device, state)
    try:
        yield
    finally:
        set_random_state(device, before)


def random_state(device: torch.device) -> list[Tensor]:
    """State of torch's global generators, which dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(device: torch.device, states: list[Tensor]) -> None:
    """Put the global generators into a state that :func:`random_state` gave."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
