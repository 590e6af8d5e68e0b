"""The interface to map one function over many orders, and the executor that runs in this process.

An order is plain data (representable in JSON), and so is its result: nothing is pickled, and an order can travel to another
process, machine or day. An executor for a cluster is one more class with ``workers``, ``map`` and ``with``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fmbench.execution.foreign import said

Report = Callable[..., None]
"""Receives progress reports of a function, plain data."""
Work = Callable[[Any, Report], Any]
"""A function of a module: (order, report) -> plain data. A ValueError becomes the error of its order; other exceptions end the map."""


def nothing(*news: Any) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Done:
    """The outcome of an order.

    Attributes:
        value: what the function returned.
        error: one line where it refused or failed; None otherwise.
        died: whether its process ended before it answered.
    """

    value: Any = None
    error: str | None = None
    died: bool = False


class Executor(Protocol):
    """Carries out orders."""

    @property
    def workers(self) -> int:
        """Orders that are carried out at the same time."""
        ...

    def map(
        self, function: Work, orders: Sequence[Any], report: Report = nothing, finished: Report = nothing
    ) -> list[Done]:
        """The outcomes of all orders, in their order.

        ``report`` gets what the function reports, ``finished`` the number of orders that are done, each time one more is. An order whose
        function raises ValueError or FileNotFoundError, or whose process dies, is :class:`Done` with the reason, and the others go on.
        Raises OSError and KeyboardInterrupt as they come, and RuntimeError in one line for anything else.
        """
        ...


def attempted(function: Work, order: Any, report: Report) -> Done:
    """The outcome of an order carried out in this process."""
    try:
        return Done(function(order, report))
    except (ValueError, FileNotFoundError) as error:
        return Done(error=said(error))


class Here:
    """Carries out orders in this process, one after the other."""

    workers = 1

    def map(
        self, function: Work, orders: Sequence[Any], report: Report = nothing, finished: Report = nothing
    ) -> list[Done]:
        """See :meth:`Executor.map`; other exceptions of the function pass through."""
        found = []
        for order in orders:
            found.append(attempted(function, order, report))
            finished(len(found))
        return found

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def usable_threads() -> int:
    """Number of threads that torch uses: the cores of the machine, or fewer as set by OMP_NUM_THREADS or the caller."""
    import torch

    return torch.get_num_threads()
