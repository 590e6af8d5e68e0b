"""Counting network evaluations around the forward call, so that NFE is measured and never declared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import nn

_GUIDANCE: ContextVar[bool] = ContextVar("guidance", default=False)


@dataclass
class Evaluations:
    """Rows that went through the network: ``network`` for the model itself, ``guidance`` for the second pass of guidance."""

    network: int = 0
    guidance: int = 0


@contextmanager
def as_guidance() -> Iterator[None]:
    """Inside, network calls count as guidance."""
    token = _GUIDANCE.set(True)
    try:
        yield
    finally:
        _GUIDANCE.reset(token)


@contextmanager
def counting(net: nn.Module) -> Iterator[Evaluations]:
    """Count the rows of the first argument of every forward call of ``net``; divide by the samples made to get NFE."""
    count = Evaluations()

    def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
        rows = len(args[0] if args else next(iter(kwargs.values())))
        if _GUIDANCE.get():
            count.guidance += rows
        else:
            count.network += rows

    handle = net.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield count
    finally:
        handle.remove()
