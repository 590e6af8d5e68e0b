"""Conversion of results of earlier versions; nothing is measured.

From schema 1 to schema 2: values stay the same, each gets a key of what determines it. And to the present names of entries
(:mod:`fmbench.records.aliases`): what was an entry of its own becomes a training of another where the weights are the ones pinned there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fmbench.evaluation.evaluation import DATA, describe
from fmbench.evaluation.filling import retired, shortened
from fmbench.evaluation.identity import identified
from fmbench.evaluation.options import Options
from fmbench.evaluation.wanted import Wanted, adopted, wanted
from fmbench.execution.foreign import foreign, isolated, said
from fmbench.records import protocol, result
from fmbench.records.aliases import canonical
from fmbench.records.metric import METRICS
from fmbench.records.protocol import Protocol
from fmbench.records.result import Estimate, Result, Row
from fmbench.records.sidecar import tidy
from fmbench.records.typed import plain
from fmbench.registry import TASKS
from fmbench.storage.files import check_writable
from fmbench.zoo.resolve import resolve

IDENTITY = ("weights_sha256", "code_sha256", "recipe")
"""What the names of draws depend on, of a model."""
STALE = "measured against an earlier reference solve than the flow's; run the benchmark again with --out to measure it"


@dataclass(frozen=True)
class Moved:
    """Files that were converted or renamed, and one line for each that could not be."""

    written: list[Path]
    problems: list[str]


def _without_stale(found: Result, want: Wanted) -> Result:
    """The result with null for values whose reference solve was not recorded; those values are moved to ``retired``."""

    def known(row: Row) -> Row:
        metrics = {
            name: e if e.key == want.keys[name] or not METRICS[name].first_seed else Estimate.missing(STALE)
            for name, e in row.metrics.items()
        }
        return replace(row, metrics=metrics)

    made = replace(found, rows=tuple(map(known, found.rows)))
    return replace(made, retired=retired(found, made))


def migrated(path: Path, folder: Path) -> Result | None:
    """A result of schema 1 with names and keys added, or one whose retired values are longer than they are kept now; None for any other.

    Raises ValueError or FileNotFoundError in one line where it cannot be told what it holds: another protocol or other weights than there are
    now, code of the user's own.
    """
    found = result.read(path)
    if any(row.id for row in found.rows):
        brief = shortened(found.retired)
        return None if brief == plain(found.retired) else replace(found, retired=brief)
    spec, task = _protocol(found, folder), TASKS.resolve(found.task["name"])()
    options = Options(device="cpu")
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


def _protocol(found: Result, folder: Path) -> Protocol:
    own = folder / "protocols" / f"{found.benchmark['name']}.toml"
    return protocol.read(own if own.is_file() else found.benchmark["name"])


def renamed(path: Path, folder: Path) -> Result | None:
    """A result under the present name of its entry, with the keys of its draws; None where that is the name it has.

    The values are of the weights alone, and their hash decides: raises ValueError in one line where the training of that name has others.
    """
    found = result.read(path)
    name = canonical(str(found.model["name"]))
    if name == found.model["name"]:
        return None
    with foreign(), isolated():
        model = identified(resolve(name).load())
    if found.model.get("weights_sha256") != model.identity.get("weights_sha256"):
        raise ValueError(f"{path}: its weights are not those of {name}, which has its name now")
    task, spec = TASKS.resolve(found.task["name"])(), _protocol(found, folder)
    options = Options(device="cpu")
    then = {key: found.model.get(key) for key in IDENTITY}
    before = wanted(spec, task, replace(model, identity={**model.identity, **then}), options)
    now = wanted(spec, task, model, options)
    draws = dict(zip(before.draws, now.draws, strict=True))
    same = found.flow_id == before.flow

    def keyed(table: Mapping[str, Estimate], old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Estimate]:
        return {n: replace(e, key=new[n]) if e.key and e.key == old.get(n) else e for n, e in table.items()}

    rows = tuple(
        replace(row, id=draws.get(row.id, row.id), metrics=keyed(row.metrics, before.keys, now.keys))
        for row in found.rows
    )
    facts = {**found.model, **describe(model, name)}
    made = replace(found, model=facts, rows=rows)
    return replace(made, flow=keyed(found.flow, before.flow_keys, now.flow_keys), flow_id=now.flow) if same else made


def _rename(path: Path, folder: Path) -> Path | None:
    """Write the result of a file under the present name of its entry and delete the file; None where it has that name.

    A result that is there already stays: it is of the same weights.
    """
    made = renamed(path, folder)
    if made is None:
        return None
    target = path.with_name(f"{made.entry}.json")
    if target.is_file() and result.read(target).model.get("weights_sha256") != made.model["weights_sha256"]:
        raise ValueError(f"{path}: {target} is there and of other weights")
    if not target.is_file():
        made.save(folder / "results")
    path.unlink()
    tidy(path, "")
    return target


def migrate(folder: Path) -> Moved:
    """Write every result below ``folder/results`` as schema 2, under the present name of its entry.

    Raises PermissionError when nothing can be written there.
    """
    written, problems = [], []
    check_writable(folder / "results")
    for path in sorted((folder / "results").glob("*/*/*.json")):
        try:
            made = migrated(path, folder)
            if made is not None:
                made.save(folder / "results")
            if (target := _rename(path, folder)) is not None:
                written.append(target)
            elif made is not None:
                written.append(path)
        except (ValueError, FileNotFoundError) as error:
            problems.append(f"{path} stays as it is: {said(error).removeprefix(f'{path}: ')}")
    return Moved(written, problems)
