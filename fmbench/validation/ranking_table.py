"""Simulated error and power of the ranking rule as text, Markdown and plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fmbench.validation.ranking import GAP, LIMITS, Line, Rates, Share

COLUMNS = ("claim", "k", "n", "spreads", "error", "error, half worse", "power", "old error", "old power", "within")
HEAD = f"""# Which rows differ: error and power of the ranking rule

Written by `fmbench validate-ranking --markdown`. Per cent, with the half-width of the 95 % Monte Carlo interval.

- **error**: share of tables of k truly equal entries in which any difference is claimed. At most {100 * LIMITS["equal"]:g} % is allowed with
  equal spreads, {100 * LIMITS["fourfold"]:g} % where spreads differ up to fourfold. **half worse**: the same with half of the entries worse by
  {GAP:g} standard deviations of a mean; claims between equals and on the wrong side count.
- **power**: share of the truly different pairs there that are found.
- **network**: one training of each entry, n shared evaluation seeds or jackknife groups; **method**: n trainings of five seeds each.
- **old**: a 95 % paired t interval for each pair by itself, as tables were ranked before.
"""


def summary(lines: Sequence[Line]) -> str:
    """One line: largest simulated errors by spread, for the rule and the one before, and whether the limits hold."""
    parts = []
    for spread, limit in LIMITS.items():
        chosen = [line for line in lines if line.setting.spread == spread]
        worst = max((_worst(line.rule) for line in chosen), key=lambda share: share.value)
        before = max((_worst(line.old) for line in chosen if line.old), key=lambda share: share.value)
        parts.append(
            f"{spread} spreads: error at most {_cell(worst)} % (limit {100 * limit:g} %), before {_cell(before)} %"
        )
    wrong = sum(not line.held for line in lines)
    return f"{'; '.join(parts)}; {len(lines) - wrong} of {len(lines)} settings within their limits"


def _worst(rates: Rates) -> Share:
    return max(rates.error, rates.error_half, key=lambda share: share.value)


def _cell(share: Share) -> str:
    return f"{100 * share.value:.1f} ± {100 * share.half:.1f}"


def cells(line: Line) -> tuple[str, ...]:
    """The texts of one row, in the order of :data:`COLUMNS`."""
    setting, rule, old = line.setting, line.rule, line.old
    return (
        setting.claim,
        str(setting.entries),
        str(setting.units),
        setting.spread,
        _cell(rule.error),
        _cell(rule.error_half),
        _cell(rule.power),
        _cell(old.error) if old else "–",
        _cell(old.power) if old else "–",
        "yes" if line.held else "NO",
    )


def to_text(lines: Sequence[Line]) -> str:
    """A table in columns, for a terminal."""
    rows = [COLUMNS, *map(cells, lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def to_markdown(lines: Sequence[Line]) -> str:
    """The whole report; ends with a line break."""
    rows = [COLUMNS, tuple("---:" for _ in COLUMNS), *map(cells, lines)]
    return "\n".join([HEAD, f"{summary(lines)}.", "", *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def to_json(lines: Sequence[Line]) -> dict[str, Any]:
    """Plain data: ``passed``, ``summary`` and the ``settings`` with their rates, shares between 0 and 1."""
    rows = [dataclasses.asdict(line) | {"held": line.held} for line in lines]
    return {"passed": all(line.held for line in lines), "summary": summary(lines), "settings": rows}
