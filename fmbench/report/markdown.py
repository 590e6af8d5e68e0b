"""Tables as Markdown, for ``leaderboard/README.md``. Text from results is escaped, never interpreted as markup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fmbench.report.cells import Cell
from fmbench.report.table import Note, Table, TableKey

HEADER = """<!-- Written by `fmbench leaderboard build` from the files in results/. Do not edit. -->

# Leaderboard

[`index.html`](index.html) shows the same tables sortable, with every metric and a plot; [`tables/`](tables) has every
number as CSV.

- **Numbers** are *value ± half-width of the 95 % interval*, two digits of uncertainty; *@N*: N fixed steps.
- Rows stand in the order of the number that ranks. **rank** 3-6 of 9: two entries of the division are better beyond doubt and
  three are worse; all ranks of a table hold together with 95 % (`fmbench validate-ranking` simulates error and power). All
  entries see the same noise and reference samples, so pairs are compared seed by seed, with one seed by 20 groups of rows
  left out, on the logarithm of a distance, by a moderated t with Holm's correction over all pairs. Without such raw values
  the stated intervals are compared, unpaired, which separates fewer. "Not separated" is not "equal".
- **claim** says what a rank is about: *network*, these weights and not their method, or *method, mean of T trainings*
  from other seeds. Both are never compared with each other; where a division has both, **rank** says which. Numbers of a
  method are means over its trainings, and their intervals cover both noises: that between trainings and that of the
  evaluation, which all trainings share; times are those of the first training. The CSV has every training. Entries of the
  same weights or samples are one row with all its names.
- An entry is judged by its row with the most operations per sample (MFLOP) among those within the budget of measured
  evaluations, a one-step map by its one: in the closed division evaluations of the task's network count, in the open one
  those of all networks.
- **Bold**: no ranked entry of the division is significantly better in this column.
- **data** (fresh real samples scored like a model) and **oracle** (exact velocity) are anchors: they bound the others,
  unranked.
- **–**: no number; the reasons stand below each table. **NFE** is counted around the network's forward call, never
  declared.
- **closed**: the task's fixed network, data and training budget; **open**: anything; **conditional**: told the class of every sample.
  They are ranked apart.
- **status**: claimed, rescored (from samples), rerun (from weights), replicated (retrained).
- Latency compares only within one device; results of different protocol hashes never share a table.
"""


def escape(text: str) -> str:
    """Text that Markdown (GitHub's, tables included) shows as it is: no markup, HTML, entity, link or mention."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    text = re.sub(r"@(?!\d)", "&#64;", text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def escape_line(text: str) -> str:
    """Escaped text at the start of a line, where a number or a sign could begin a list or a heading."""
    return re.sub(r"^(\d*)([-+#.)=])", r"\1\\\2", escape(text))


def cell_text(cell: Cell) -> str:
    """A cell's text for a Markdown table, bold when nothing in its division is better."""
    text = escape(cell.text)
    return f"**{text}**" if cell.best else text


def _notes(title: str, notes: Sequence[Note]) -> list[str]:
    if not notes:
        return []
    lines = [f"- {escape_line(note.entry)}, {escape(note.where)}: {escape(note.reason)}" for note in notes]
    return ["", f"<details><summary>{title} ({len(notes)})</summary>", "", *lines, "", "</details>"]


def table_lines(table: Table) -> list[str]:
    """The lines of one table with its caption and notes."""
    key, shown = table.key, table.view()
    info = table.metrics[table.primary]
    least, most = table.samples
    size = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    seeds = ", ".join(map(str, table.seeds))
    caption = (
        f"Ranked by {escape(info.label)} @{table.budget}. n = {size} samples over {seeds} evaluation {'seed' if seeds == '1' else 'seeds'}; "
        f"interval: {escape(info.interval)}. "
        f"Protocol `{re.sub('[^0-9a-zA-Z]', '', key.sha256)[:12]}`, task version {escape(key.task_version)}; "
        f"device: {escape('; '.join(table.devices))}."
        + "".join(f" {escape(ranking.line())}." for ranking in table.rankings)
    )
    columns = [table.columns[i] for i in shown]
    head = "| " + " | ".join(escape(c.title) for c in columns) + " |"
    rule = "|" + "|".join("---:" if c.numeric else ":---" for c in columns) + "|"
    body = ["| " + " | ".join(cell_text(row.cells[i]) for i in shown) + " |" for row in table.rows]
    notes = [*_notes("Failed or not ranked", table.failures), *_notes("Why some cells are empty", table.gaps())]
    return [f"### {escape(key.task)}", "", caption, "", head, rule, *body, *notes, ""]


def legend(tables: Mapping[TableKey, Table]) -> list[str]:
    """Descriptions of the metrics in the tables, one line each."""
    found = {}
    for table in tables.values():
        for i in table.view():
            column = table.columns[i]
            name = column.title.partition(" @")[0] if column.metric else column.title
            found.setdefault(name, column.note)
    skip = ("rank", "entry", "method", "params", "division", "status")
    return [f"- **{escape(name)}**: {escape(note)}" for name, note in found.items() if name not in skip]


def render(tables: Mapping[TableKey, Table]) -> str:
    """All tables under one heading per benchmark and protocol, after a legend."""
    lines = [HEADER]
    if not tables:
        return HEADER + "\nNo results yet: `fmbench run quick` makes some.\n"
    lines += ["## What the columns mean", "", *legend(tables), ""]
    previous = None
    for key, table in tables.items():
        if key[:3] != previous:
            previous = key[:3]
            lines += [f"## {escape(key.benchmark)}, version {escape(key.version)}", ""]
            lines += [f"Protocol hash `{re.sub('[^0-9a-zA-Z]', '', key.sha256)}`.", ""]
        lines += table_lines(table)
    return "\n".join(lines).rstrip() + "\n"
