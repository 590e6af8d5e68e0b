"""A table of the time that evaluations spent in each phase."""

from __future__ import annotations

from collections.abc import Sequence

from fmbench.records.result import Result

OTHER = "other"
"""Phase of what no phase names: loading, writing, waiting."""
LESSER = ("trial", "cost")
"""Phases that are counted as other where a terminal is narrower than :data:`WIDE`."""
WIDE = 110
NEEDED = ("sampling", "features")
"""Phases that any harness needs."""


def times(result: Result) -> dict[str, float]:
    """Seconds by phase of all runs that filled a result and say them, the rest under :data:`OTHER`."""
    found: dict[str, float] = {}
    for run in ({"seconds": result.seconds, "phases": result.phases}, *result.runs.values()):
        phases = run.get("phases")
        if not phases:
            # A run of an earlier version says nothing of where its time went.
            continue
        rest = max(0.0, run.get("seconds", 0.0) - sum(phases.values()))
        for name, seconds in {**phases, OTHER: rest}.items():
            found[name] = found.get(name, 0.0) + seconds
    return found


def profile(results: Sequence[Result], lesser: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the table: seconds by phase for every result and in total, and the ratio of the total to the needed phases.

    Phases named in ``lesser`` are counted as other. The needed phases are sampling and features; the ratio is empty for real samples, which
    are not sampled by a model.
    """
    found = {str(result.model["name"]): times(result) for result in results}
    for one in found.values():
        one[OTHER] = one.get(OTHER, 0.0) + sum(one.pop(name, 0.0) for name in lesser)
    names = [name for name in dict.fromkeys(phase for one in found.values() for phase in one) if name != OTHER]
    found["all"] = {name: sum(one.get(name, 0.0) for one in found.values()) for name in (*names, OTHER)}
    rows = []
    for what, one in found.items():
        whole, needed = sum(one.values()), sum(one.get(name, 0.0) for name in NEEDED)
        cells = [f"{one[name]:.2f}" if name in one else "-" for name in (*names, OTHER)]
        ratio = f"{whole / needed:.1f}" if needed and "sampling" in one else "-"
        rows.append([what, *cells, f"{whole:.2f}", ratio])
    return ["seconds", *names, OTHER, "whole", "ratio"], rows


def print_profile(results: Sequence[Result]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    titles, rows = profile(results, LESSER if console.width < WIDE else ())
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in titles:
        grid.add_column(title, no_wrap=True, justify="left" if title == titles[0] else "right")
    for row in rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
    console.print("ratio: the whole by sampling and features; latencies and other costs are measured one at a time")
