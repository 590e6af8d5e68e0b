"""Tables inside a hand-written Markdown file: between markers, written by the program, so that no number is typed.

A marker names benchmark, task and columns: ``<!-- fmbench: digits/digits | rank, entry, FD @8, NFE @8 -->``; everything up to
``<!-- /fmbench -->`` is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fmbench.report.markdown import cell_text, escape
from fmbench.report.table import Table, TableKey

BLOCK = re.compile(r"(<!-- fmbench: (?P<place>[^|\s]+) \| (?P<columns>[^>]*?) -->\n).*?(<!-- /fmbench -->)", re.DOTALL)


def short_table(table: Table, titles: list[str]) -> str:
    """A Markdown table of the named columns. Raises ValueError listing the columns there are for one that is not there."""
    by_title = {column.title: i for i, column in enumerate(table.columns)}
    for title in titles:
        if title not in by_title:
            raise ValueError(
                f"no column {title!r} in {table.key.benchmark}/{table.key.task}; there are {', '.join(by_title)}"
            )
    chosen = [by_title[title] for title in titles]
    head = "| " + " | ".join(escape(title) for title in titles) + " |"
    rule = "|" + "|".join("---:" if table.columns[i].numeric else ":---" for i in chosen) + "|"
    body = ["| " + " | ".join(cell_text(row.cells[i]) for i in chosen) + " |" for row in table.rows]
    return "\n".join([head, rule, *body]) + "\n"


def fill(text: str, tables: Mapping[TableKey, Table]) -> str:
    """The text with every marked block replaced. Raises ValueError for a table or a column that does not exist."""
    known = {f"{key.benchmark}/{key.task}": table for key, table in tables.items()}

    def block(match: re.Match[str]) -> str:
        place = match["place"]
        if place not in known:
            raise ValueError(f"no results for {place}; there are {', '.join(known) or 'none'}")
        return match[1] + short_table(known[place], [c.strip() for c in match["columns"].split(",")]) + match[4]

    return BLOCK.sub(block, text)
