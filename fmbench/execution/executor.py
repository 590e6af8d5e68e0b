"""One function over many orders: the interface that the harness uses, and the executor that stays in this process.

An order is plain data (what JSON can say), and so is what the function gives back: nothing is pickled, and an order can travel to another
process, machine or day. An executor for a cluster is one more class with ``workers``, ``map`` and ``with``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fmbench.execution.foreign import said

Report = Callable[..., None]
"""Takes the news of a function at work: plain data."""
Work = Callable[[Any, Report], Any]
"""A function of a module: (order, report) -> plain data. What it raises as ValueError is said of its order; anything else ends the map."""


def nothing(*news: Any) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Done:
    """What became of an order.

    Attributes:
        value: what the function returned.
        error: one line where it refused or failed; None otherwise.
        died: whether its process ended before it could say more.
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
        """What became of every order, in their order.

        ``report`` gets what the function reports, ``finished`` the number of orders that are done, each time one more is. An order whose
        function raises ValueError or FileNotFoundError, or whose process dies, is :class:`Done` with the reason, and the others go on.
        Raises OSError and KeyboardInterrupt as they come, and RuntimeError in one line for anything else.
        """
        ...


def attempted(function: Work, order: Any, report: Report) -> Done:
    """What becomes of an order in this process."""
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
        """See :meth:`Executor.map`; whatever else the function raises passes through."""
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
    """Threads that torch computes with here: the cores of the machine, or less where OMP_NUM_THREADS or the caller says so."""
    import torch

    return torch.get_num_threads()
