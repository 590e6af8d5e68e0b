"""Cells of a table: the text of an estimate, a count or a name from a result, with control characters removed."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from fmbench.records.result import Estimate

MISSING = "–"
NAME_LENGTH = 80
REASON_LENGTH = 300
TINY = 1e-6
"""Ratio of half-width to value below which the half-width would call for too many digits."""

SMALLEST = 1e-300
"""Smallest value shown with full digits: below it floats lose precision."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the shown text, cleaned but not escaped: every writer escapes for its own format.
        value: sort key; None sorts last.
        note: the tooltip: interval, n, or why there is no number.
        best: whether no ranked entry of the same division is significantly better in this column.
    """

    text: str
    value: float | str | None = None
    note: str = ""
    best: bool = False


def clean(text: object, length: int = NAME_LENGTH) -> str:
    """One line of printable text of at most ``length`` characters.

    Control characters, line breaks and invisible formatting characters (they can reorder what is shown) become spaces.
    """
    line = str(text)
    if not (line.isascii() and line.isprintable()):
        line = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in line)
    line = " ".join(line.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def plain(value: float, digits: int = 4) -> str:
    """A number without uncertainty, to ``digits`` significant digits."""
    return f"{value + 0.0:.{digits}g}"


def with_half_width(value: float, half: float) -> str:
    """``value ± half``, both cut at two significant digits of the half-width; powers of ten below 0.001, from 10^6.

    Raises ValueError when the half-width is negative or one of them is not finite.
    """
    if not (math.isfinite(value) and math.isfinite(half)) or half < 0:
        raise ValueError(f"needs a finite value and a half-width of at least 0, got {value} and {half}")
    if half == 0:
        return plain(value)
    if half < TINY * abs(value):
        return f"{value:.7g} ± {half:.0e}"
    size = max(abs(value), half)
    if size < SMALLEST:
        return f"{value:.2g} ± {half:.2g}"
    if size < 1e-3 or size >= 1e6:
        power = math.floor(math.log10(size))
        return f"({with_half_width(value / 10.0**power, half / 10.0**power)})e{power}"
    # The exponent after rounding: 0.0996 is 0.10 with two digits, not 0.100.
    decimals = 1 - int(f"{half:.1e}".partition("e")[2])
    shown = max(decimals, 0)
    return f"{round(value, decimals) + 0.0:.{shown}f} ± {round(half, decimals):.{shown}f}"


def estimate_cell(estimate: Estimate | None, unit: str = "") -> Cell:
    """An estimate as ``value ± half-width``; a dash with the reason when there is no number."""
    if estimate is None:
        return Cell(MISSING, note="not recorded")
    if estimate.value is None:
        return Cell(MISSING, note=clean(estimate.reason or "no reason recorded", REASON_LENGTH))
    if not math.isfinite(estimate.value):
        return Cell(MISSING, note="not a finite number")
    unit = f" {unit}" if unit else ""
    if estimate.ci is None:
        return Cell(
            plain(estimate.value), estimate.value, f"{plain(estimate.value, 6)}{unit}, no interval, n = {estimate.n:,}"
        )
    low, high = estimate.ci
    resolution = estimate.details.get("resolution")
    if isinstance(resolution, float) and 0 < max(abs(low), abs(high)) < resolution:
        note = f"below what float32 resolves here, {plain(resolution, 2)}{unit}; n = {estimate.n:,}"
        return Cell(f"< {plain(resolution, 1)}", estimate.value, note)
    note = f"{plain(estimate.value, 6)}{unit}, 95 % interval {plain(low, 6)} to {plain(high, 6)}, n = {estimate.n:,}"
    if trainings := estimate.details.get("per_training"):
        note += f"; mean of {len(trainings)} trainings: {', '.join(plain(value, 6) for value in trainings)}"
    return Cell(with_half_width(estimate.value, (high - low) / 2), estimate.value, note)


def count_cell(count: float | None) -> Cell:
    """A number of parameters: 12.9 k, 1.20 M."""
    if count is None:
        return Cell(MISSING, note="not recorded")
    note = f"{count:,.0f} parameters"
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return Cell(
                f"{count / factor:.3g} {suffix}" if count < 999.5 * factor else f"{count / factor:.0f} {suffix}",
                count,
                note,
            )
    return Cell(f"{count:.0f}", count, note)


def text_cell(text: object, note: str = "") -> Cell:
    """A name, cleaned; it sorts as text."""
    shown = clean(text)
    return Cell(shown or MISSING, shown, note)
