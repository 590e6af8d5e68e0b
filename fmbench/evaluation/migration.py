"""Conversion of results from schema 1 to schema 2: values stay the same, each gets a key of what determines it; nothing is measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fmbench.evaluation.filling import retired
from fmbench.evaluation.identity import identified
from fmbench.evaluation.options import Options
from fmbench.evaluation.wanted import Wanted, adopted, wanted
from fmbench.execution.foreign import foreign, isolated, said
from fmbench.records import protocol, result
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate, Result, Row
from fmbench.registry import TASKS
from fmbench.storage.files import check_writable
from fmbench.zoo.resolve import resolve

DATA = "data"
STALE = "measured against an earlier reference solve than the flow's; run the benchmark again with --out to measure it"


@dataclass(frozen=True)
class Moved:
    """Files that were converted, and one line for each that could not be."""

    written: list[Path]
    problems: list[str]


def _without_stale(found: Result, want: Wanted) -> Result:
    """The result with null for values whose reference solve was not recorded; those values are moved to ``retired``."""

    def known(row: Row) -> Row:
        metrics = {
            name: e if e.key == want.keys[name] or not METRICS[name].first_seed else Estimate.missing(STALE)
            for name, e in row.metrics.items()
        }
        return dataclasses.replace(row, metrics=metrics)

    made = dataclasses.replace(found, rows=tuple(map(known, found.rows)))
    return dataclasses.replace(made, retired=retired(found, made))


def migrated(path: Path, folder: Path) -> Result | None:
    """A result of schema 1 with names and keys added; None for one that has them already.

    Raises ValueError or FileNotFoundError in one line where it cannot be told what it holds: another protocol or other weights than there are
    now, code of the user's own.
    """
    found = result.read(path)
    if any(row.id for row in found.rows):
        return None
    own = folder / "protocols" / f"{found.benchmark['name']}.toml"
    spec = protocol.read(own if own.is_file() else found.benchmark["name"])
    task, options = TASKS.resolve(found.task["name"])(), Options(device="cpu")
    model = None
    if found.entry != DATA:
        with foreign(), isolated():
            model = identified(resolve(found.model["name"]).load())
    want = wanted(spec, task, model, options)
    known = adopted(found, want, spec, model, options)
    if known is None:
        raise ValueError(
            f"{path}: its protocol, weights, seeds or samplers are not those of {spec.name} and the zoo now"
        )
    return _without_stale(known, want)


def migrate(folder: Path) -> Moved:
    """Write every result below ``folder/results`` as schema 2. Raises PermissionError when nothing can be written there."""
    written, problems = [], []
    check_writable(folder / "results")
    for path in sorted((folder / "results").glob("*/*/*.json")):
        try:
            made = migrated(path, folder)
            if made is not None:
                written.append(made.save(folder / "results"))
        except (ValueError, FileNotFoundError) as error:
            problems.append(f"{path} stays as it is: {said(error).removeprefix(f'{path}: ')}")
    return Moved(written, problems)
