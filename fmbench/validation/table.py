"""Checks as Markdown and as plain data."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from fmbench.validation.check import Check

COLUMNS = ("metric", "case", "expected", "got", "error", "tolerance", "95 % interval", "within", "how it is known")
VERDICT = {True: "yes", False: "NO", None: "not checked"}


def summary(checks: Sequence[Check]) -> str:
    """One line: how many checks are within their tolerance, outside of it, and not possible."""
    held, wrong, open_ = (sum(check.passed is verdict for check in checks) for verdict in (True, False, None))
    metrics = len({check.metric for check in checks})
    return f"{metrics} metrics: {held} checks within tolerance, {wrong} outside, {open_} metrics cannot be validated"


def _number(value: float | None, digits: int = 6) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def cells(check: Check) -> tuple[str, ...]:
    """The texts of one row, in the order of :data:`COLUMNS`."""
    low, high = check.interval or (None, None)
    return (
        check.metric,
        check.case,
        _number(check.expected),
        _number(check.got),
        _number(check.error, 2),
        _number(check.tolerance, 2),
        "–" if check.interval is None else f"{_number(low, 5)} to {_number(high, 5)}",
        VERDICT[check.passed],
        check.note,
    )


def _text(cell: str) -> str:
    """A cell that Markdown shows as it is."""
    return re.sub(r"([\\|*_<\[\]])", r"\\\1", cell.replace("\n", " "))


def to_markdown(checks: Sequence[Check]) -> str:
    """A Markdown table, one row per check, below a line with the counts; ends with a line break."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS)]
    rows += [tuple(map(_text, cells(check))) for check in checks]
    return "\n".join([summary(checks), "", *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Plain data: ``passed`` (no check outside its tolerance), ``summary`` and the ``checks``; numbers that are not finite are null."""
    rows = [{key: _plain(value) for key, value in dataclasses.asdict(check).items()} for check in checks]
    return {"passed": all(check.passed is not False for check in checks), "summary": summary(checks), "checks": rows}
