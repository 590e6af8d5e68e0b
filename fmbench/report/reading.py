"""Result files come from anyone, so each is checked before anything is built.

It must be what its place says, with numbers where numbers belong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmbench.records import result
from fmbench.records.result import STATUSES, Estimate, Result, Row
from fmbench.report.samplers import sampler_of


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_estimate(name: str, estimate: Estimate) -> None:
    value, ci = estimate.value, estimate.ci
    _require(value is None or _is_number(value), f"{name}: value must be a finite number or null, got {value!r}")
    fine = ci is None or (len(ci) == 2 and all(map(_is_number, ci)) and ci[0] <= ci[1])
    _require(fine, f"{name}: ci must be null or two finite numbers in order, got {ci!r}")
    whole = isinstance(estimate.n, int) and estimate.n >= 0
    _require(whole, f"{name}: n must be a whole number of at least 0, got {estimate.n!r}")


def _check_row(row: Row) -> None:
    where = f"row {row.solver!r} {row.steps!r}"
    _require(isinstance(row.solver, str), f"{where}: solver must be text")
    _require(row.steps is None or isinstance(row.steps, int), f"{where}: steps must be a whole number or null")
    _require(_is_number(row.guidance), f"{where}: guidance must be a number, got {row.guidance!r}")
    counts = list(row.nfe.values())
    _require(
        all(_is_number(n) and n >= 0 for n in counts), f"{where}: nfe must be numbers of at least 0, got {counts!r}"
    )
    for name, estimate in row.metrics.items():
        _check_estimate(f"{where}: {name}", estimate)
    _require(row.latency is None or isinstance(row.latency, Mapping), f"{where}: latency must be a table or null")
    p50 = (row.latency or {}).get("p50")
    _require(p50 is None or _is_number(p50), f"{where}: latency p50 must be a number, got {p50!r}")


def check(found: Result) -> None:
    """Raise ValueError in one line for a result whose fields are not of the kind the schema says."""
    for table, keys in (("benchmark", ("name", "sha256")), ("task", ("name",)), ("model", ("name", "division"))):
        content = getattr(found, table)
        _require(isinstance(content, Mapping), f"{table} must be a table, got {content!r}")
        for key in keys:
            text = content.get(key)
            _require(isinstance(text, str) and text != "", f"{table}: {key} must be text, got {text!r}")
    parameters = found.model.get("parameters")
    _require(parameters is None or _is_number(parameters), f"model: parameters must be a number, got {parameters!r}")
    _require(isinstance(found.environment, Mapping), f"environment must be a table, got {found.environment!r}")
    _require(isinstance(found.cost, Mapping), f"cost must be a table, got {found.cost!r}")
    _require(isinstance(found.ranked, bool), f"ranked must be true or false, got {found.ranked!r}")
    _require(found.status in STATUSES, f"status must be one of {', '.join(STATUSES)}, got {found.status!r}")
    for row in found.rows:
        _check_row(row)
    samplers = [sampler_of(row) for row in found.rows]
    _require(len(set(samplers)) == len(samplers), "two rows have the same sampler")
    for name, estimate in found.flow.items():
        _check_estimate(name, estimate)


def read_result(path: Path, folder: Path) -> Result:
    """Read and check ``folder/<benchmark>/<task>/<entry>.json``.

    Raises ValueError naming the file when it is damaged, not of this schema, or says to be another result than its
    place says: the names in it become file names and headings, so they are believed only where the folder agrees.
    """
    try:
        found = result.read(path)
        check(found)
        place = (found.benchmark["name"], found.task["name"], f"{found.entry}.json")
        here = path.relative_to(folder).parts
        _require(here == place, f"it says to be {'/'.join(place)}")
    except (ValueError, TypeError, AttributeError) as error:
        message = str(error)
        raise ValueError(
            message if message.startswith(str(path)) else f"{path} is not a result file: {message}"
        ) from None
    return found


def read_results(folder: Path) -> list[Result]:
    """All results below a folder, checked, in the order of their paths. Raises ValueError naming the first bad file."""
    return [read_result(path, folder) for path in sorted(folder.rglob("*.json"))]
