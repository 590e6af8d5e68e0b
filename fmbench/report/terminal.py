"""Tables in the terminal: as many columns as fit, the important ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fmbench.records.result import Result
from fmbench.report.build import tables_of
from fmbench.report.cells import MISSING, Cell
from fmbench.report.table import Table

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2
"""Spaces between columns."""
ALWAYS = ("rank", "entry")
LATE = ("method", "params", "division", "status")
"""Columns that go first when the window is narrow."""


def _text(cell: Cell) -> str:
    return {"not ranked": MISSING}.get(cell.text, cell.text)


def choose_columns(table: Table, width: int) -> list[int]:
    """Indices of the columns that fit into ``width`` characters, in the order of the table.

    ``rank`` and ``entry`` are always there; then the ranking column, the other columns of the primary metric, the rest
    of the numbers and at last the descriptions.
    """
    shown = table.view()
    ranking = f"@{table.budget}"

    def importance(i: int) -> tuple:
        column = table.columns[i]
        is_ranking = bool(column.metric) and column.title.endswith(ranking)
        return column.title not in ALWAYS, not is_ranking, not column.metric, column.title in LATE, i

    chosen: list[int] = []
    used = 0
    for i in sorted(shown, key=importance):
        cells = [_text(row.cells[i]) for row in table.rows]
        needed = max(map(len, [table.columns[i].title, *cells])) + GAP
        if table.columns[i].title in ALWAYS or used + needed <= width:
            chosen.append(i)
            used += needed
    return sorted(chosen)


def _print_table(table: Table, console: Console) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    key, info = table.key, table.metrics[table.primary]
    least, most = table.samples
    size = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    console.print(Text(f"{key.benchmark} / {key.task}", style="bold"))
    console.print(Text(f"ranked by {info.label} @{table.budget}, n = {size}, ± is half the 95 % interval", style="dim"))
    shown = choose_columns(table, console.width)
    # Text objects, never strings: a name like "[red]" is not markup.
    grid = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for i in shown:
        column = table.columns[i]
        grid.add_column(Text(column.title), justify="right" if column.numeric else "left", no_wrap=True)
    for row in table.rows:
        dim = row.group in ("anchor", "unranked")
        cells = [row.cells[i] for i in shown]
        grid.add_row(*(Text(_text(c), style="bold" if c.best else "dim" if dim else "") for c in cells))
    console.print(grid)
    hidden = [table.columns[i].title for i in table.view() if i not in shown]
    if hidden:
        console.print(Text(f"not shown in this width: {', '.join(hidden)}", style="dim"), soft_wrap=True)
    for note in table.failures:
        console.print(Text(f"{note.entry} {note.where}: {note.reason}", style="yellow"), soft_wrap=True)
    console.print()


def print_results(
    results: Sequence[Result],
    console: Console | None = None,
    rank_steps: int | None = None,
    primary: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Print one table per benchmark and task, ranked by its protocol unless ``rank_steps`` or ``primary`` is given.

    Custom protocols are looked up in ``folder/protocols``.
    """
    from rich.console import Console

    console = console or Console()
    for table in tables_of(results, folder, rank_steps=rank_steps, primary=primary).values():
        _print_table(table, console)
