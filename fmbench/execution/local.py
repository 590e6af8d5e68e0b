"""The executors of this machine."""

from __future__ import annotations

from contextlib import AbstractContextManager

from fmbench.execution.executor import Executor, Here, usable_threads
from fmbench.execution.processes import Processes


def executor(workers: int, threads: int | None = None) -> AbstractContextManager[Executor]:
    """The executor of so many workers on this machine; its processes end with the context.

    ``threads`` of torch and its libraries for each of several workers; by default those of this process are shared out, one at least.
    Raises ValueError for less than one worker or thread.
    """
    if workers < 1 or (threads is not None and threads < 1):
        raise ValueError(f"workers and threads must be at least 1, got {workers} and {threads}")
    if workers == 1:
        return Here()
    return Processes(workers, threads or max(1, usable_threads() // workers))
