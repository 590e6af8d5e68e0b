"""Tables as one self-contained HTML file, with all content escaped.

The data stand in the page as JSON in which ``<``, ``>`` and ``&`` are escaped, and the script of the template builds
the page from text nodes only. The content security policy allows that one script and style sheet by their hashes and no
request at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from fmbench.report.cells import Cell
from fmbench.report.table import Table, TableKey
from fmbench.storage.bundled import data_folder

TEMPLATE = "template.html"
PLACEHOLDER = re.compile(r"\{\{(policy|data)\}\}")


def embed(content: Any) -> str:
    """JSON escaped for use inside a script element. Raises ValueError for NaN and infinity."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _cell(cell: Cell) -> list[Any]:
    """``[text, sort key, note, best]``, the empty tail left out."""
    packed = [cell.text, cell.value, cell.note, 1 if cell.best else 0]
    while packed and not packed[-1]:
        packed.pop()
    return packed


def table_data(table: Table) -> dict[str, Any]:
    """A table as plain data for the page."""
    key = table.key
    return {
        "id": f"{key.benchmark}/{key.task}/{key.sha256[:12]}/{key.task_version}",
        **key._asdict(),
        "primary": table.primary,
        "budget": table.budget,
        "samples": table.samples,
        "seeds": table.seeds,
        "devices": table.devices,
        "metrics": {
            name: {"label": m.label, "unit": m.unit, "better": m.better, "interval": m.interval, "summary": m.summary}
            for name, m in table.metrics.items()
        },
        "columns": [[c.title, c.note, c.metric, 1 if c.numeric else 0] for c in table.columns],
        "rows": [
            {
                "entry": row.entry,
                "group": row.group,
                "cells": [_cell(cell) for cell in row.cells],
                "curves": {metric: [list(point) for point in points] for metric, points in row.curves.items()},
            }
            for row in table.rows
        ],
        "failures": table.failures,
        "rankings": [{"division": r.division, "claim": r.claim, "line": r.line(), **r.facts} for r in table.rankings],
    }


def _hash(element: str, page: str) -> str:
    """The policy source that allows the only inline ``element`` of the template that runs or styles."""
    found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"the template must have exactly one <{element}> without attributes, found {len(found)}")
    return "'sha256-" + base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode() + "'"


def render(tables: Mapping[TableKey, Table], template: str | None = None) -> str:
    """The page. ``template`` is the text of ``leaderboard/template.html`` unless given.

    Raises ValueError when the template lacks its one script, its one style sheet or the places for policy and data.
    """
    if template is None:
        template = (data_folder("leaderboard") / TEMPLATE).read_text(encoding="utf-8")
    if sorted(PLACEHOLDER.findall(template)) != ["data", "policy"]:
        raise ValueError("the template must have {{policy}} and {{data}} exactly once each")
    sources = f"script-src {_hash('script', template)}; style-src {_hash('style', template)}"
    parts = {
        "policy": f"default-src 'none'; {sources}; img-src data:; base-uri 'none'; form-action 'none'",
        "data": embed([table_data(table) for table in tables.values()]),
    }
    # One pass: braces inside the data are data.
    return PLACEHOLDER.sub(lambda match: parts[match[1]], template)
