"""Progress bars on standard error. All share one console, so that a bar inside another (pairs or a download in a training) nests."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@cache
def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def progress_bars(enabled: bool = True) -> Progress:
    """A context that draws the tasks added to it while it is open; nothing unless standard error is a terminal."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=_console(), disable=not (enabled and _console().is_terminal), transient=True)
