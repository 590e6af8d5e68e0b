"""The file format of a result, schema 2: shared facts are stored once, and every value is a cell with a key of what determines it.

::

    {schema, benchmark, task, entry: {name, method, ...}, weights: [sha256], code,
     seeds, samples_per_seed, ranked, status,
     runs:  {name: {environment, created, seconds, ...}},            the first is the result's own
     pins:  {k: {metric, details}},                                  what all numbers with this key share: extractor, reference, parameters
     timing: {clock, device, threads, ...},                          conditions of all latencies
     draws: {draw: {sampler, nfe, mflop, samples, latency, failed, run}},
     cells: {draw or flow:name: {metric: {k, value, ci, n, reason, details, run}}},
     retired: {draw: {metric: {k, value, ci, n}}}, cost, seals: {draw or flow:name: hash}, sidecar}

:func:`fold` and :func:`unfold` convert from and to the long form of :mod:`fmbench.records.schema`, which has no sidecar; one is the inverse
of the other. A seal detects values that were edited or damaged; it does not protect against deliberate manipulation. There is one seal per
draw, not per cell: an edit of one value invalidates all values of the same samples, because sampling is most of the work.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType, field

from fmbench.records import latency
from fmbench.records.conditions import Amount, Closed, Cost, Count, Evaluations, Hash, Number, Positive, Text
from fmbench.records.keys import DRAW, METRIC
from fmbench.records.schema import Benchmark, Retired, Run, Samples, Task
from fmbench.records.typed import law, require, shown, step
from fmbench.storage.files import fingerprint

SCHEMA = 2
FLOW = "flow:"
SEAL = 12
"""Hexadecimal digits of a seal."""
OWN_RUN = ("environment", "created", "seconds", "peak_memory_bytes", "phases")
SAME = ("benchmark", "task", "seeds", "samples_per_seed", "ranked", "unranked_because", "status", "cost", "retired")
"""Fields that are the same in both forms."""


class Entry(Closed, frozen=True):
    """The evaluated entry, without its hashes."""

    name: Text
    method: Text
    division: Text
    parameters: Count | None = None
    conditional: bool | UnsetType = UNSET
    license: str | UnsetType | None = UNSET
    hub: Text | UnsetType = UNSET
    remote_code: Text | UnsetType = UNSET
    recipe: Hash | UnsetType | None = UNSET


class Pin(Closed, frozen=True):
    """The facts that all values with one key share."""

    metric: Text
    details: dict[str, Any] = field(default_factory=dict)


class Draw(Closed, frozen=True):
    """Samples of one sampler."""

    sampler: tuple[str, int | None, float]
    nfe: dict[str, Evaluations] = field(default_factory=dict)
    mflop: Amount | None = None
    samples: Samples = Samples()
    latency: dict[str, Any] | None = None
    failed: Text | None = None
    run: str = ""


class Cell(Closed, frozen=True):
    """One number, or the reason why there is none."""

    k: str
    value: Number | None = None
    ci: tuple[Number, Number] | None = None
    n: Count = 0
    reason: Text | None = None
    details: dict[str, Any] = field(default_factory=dict)
    run: str = ""


class File(Closed, frozen=True):
    """A whole file."""

    schema: int
    benchmark: Benchmark
    task: Task
    entry: Entry
    weights: Annotated[tuple[Hash, ...], Meta(max_length=1)] | None
    seeds: tuple[Count, ...]
    samples_per_seed: Positive
    ranked: bool
    runs: Annotated[dict[str, Run], Meta(min_length=1)]
    pins: dict[str, Pin]
    draws: Annotated[dict[str, Draw], Meta(min_length=1)]
    cells: dict[str, dict[str, Cell]]
    seals: dict[str, str]
    code: Hash | UnsetType | None = UNSET
    status: str = "rerun"
    unranked_because: tuple[Text, ...] = ()
    cost: Cost = Cost()
    timing: dict[str, Any] = field(default_factory=dict)
    retired: dict[str, dict[str, Retired]] = field(default_factory=dict)
    sidecar: Hash | UnsetType = UNSET

    def __post_init__(self) -> None:
        flows = [name for name in self.cells if name.startswith(FLOW)]
        law(len(flows) == 1, f"cells must have one flow, got {shown(flows)}")
        drawn = {name for name in self.cells if not name.startswith(FLOW)}
        law(
            drawn == set(self.draws),
            f"cells must have the draws, got {shown(sorted(drawn ^ set(self.draws)))} in one only",
        )
        law(set(self.seals) == set(self.cells), "seals must have one seal for every draw and flow")
        for name, table in self.cells.items():
            for metric, cell in table.items():
                pinned = self.pins.get(cell.k)
                fine = pinned is None or pinned.metric == metric
                law(fine, f"cells{step(name)}{step(metric)}.k is the key of {shown(pinned and pinned.metric)}")


# -- long form -> file ------------------------------------------------------------------------------------------------


def _equal(one: Any, other: Any) -> bool:
    """Equality of plain data in which 1, 1.0 and true differ."""
    return json.dumps(one) == json.dumps(other)


def _pins(estimates: list[tuple[str, str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By key: the metric, and the details that all its values share."""
    pins: dict[str, dict[str, Any]] = {}
    for name, key, estimate in estimates:
        if estimate["value"] is None:
            continue
        if key not in pins:
            pins[key] = {"metric": name, "details": dict(estimate["details"])}
            continue
        details = pins[key]["details"]
        for word in list(details):
            if word not in estimate["details"] or not _equal(details[word], estimate["details"][word]):
                del details[word]
    for pin in pins.values():
        pin["details"].pop("per_seed", None)
    return {key: pin for key, pin in pins.items() if pin["details"]}


def _key(name: str, estimate: Mapping[str, Any]) -> str:
    """The key of a value; where it has none, ``~`` and a hash of metric, extractor and reference."""
    own = {key: value for key, value in estimate["details"].items() if key in ("extractor", "reference_sha256")}
    return (
        estimate.get("key") or "~" + fingerprint([name, own if estimate["value"] is not None else None])[: METRIC - 1]
    )


def _cell(name: str, estimate: Mapping[str, Any], pins: Mapping[str, Any]) -> dict[str, Any]:
    key = _key(name, estimate)
    cell: dict[str, Any] = {"k": key}
    cell |= {word: estimate[word] for word in ("value", "ci", "n", "reason") if estimate.get(word)}
    if estimate["value"] is not None:
        cell["value"] = estimate["value"]
    shared = pins.get(key, {"details": {}})["details"] if estimate["value"] is not None else {}
    own = {word: value for word, value in estimate["details"].items() if word not in shared}
    return cell | {word: value for word, value in (("details", own), ("run", estimate.get("run"))) if value}


def _draw(row: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    optional = {
        "nfe": row["nfe"],
        "samples": {key: value for key, value in row["samples"].items() if value is not None},
        "failed": row["failed"],
        "run": row.get("run"),
    }
    drawn = {"sampler": [row["solver"], row["steps"], row["guidance"]]}
    drawn |= {key: value for key, value in optional.items() if value}
    drawn |= {} if row.get("mflop") is None else {"mflop": row["mflop"]}
    return drawn if row["latency"] is None else drawn | {"latency": latency.fold(row["latency"], timing)}


def seal(cells: Mapping[str, Any], draw: Mapping[str, Any] | None, pins: Mapping[str, Any]) -> str:
    """Hash of the cells of a draw or flow, their pins, and the facts of the draw."""
    used = {cell["k"]: pins[cell["k"]] for cell in cells.values() if cell["k"] in pins}
    return fingerprint([cells, draw, used])[:SEAL]


@dataclass(frozen=True)
class OwnRun:
    """The run that a result's values come from unless they name another: its name and its facts."""

    name: str
    facts: dict[str, Any]


def own_run(content: Mapping[str, Any]) -> OwnRun:
    """The own run of a result in its long form."""
    facts = {key: content[key] for key in OWN_RUN if key in content}
    return OwnRun(fingerprint(facts)[:METRIC], facts)


def fold(content: Mapping[str, Any]) -> dict[str, Any]:
    """The file of a result in its long form, plain data that was checked."""
    identity = [content["model"].get(key) for key in ("name", "weights_sha256", "code_sha256")]
    names = [
        row.get("id") or "~" + fingerprint([identity, row["solver"], row["steps"], row["guidance"]])[: DRAW - 1]
        for row in content["rows"]
    ]
    flow = FLOW + (content.get("flow_id") or "~" + fingerprint(identity)[: DRAW - 1])
    tables = {**dict(zip(names, (row["metrics"] for row in content["rows"]), strict=True)), flow: content["flow"]}
    law(len(tables) == len(names) + 1, "rows must differ in their id")
    pins = _pins([(name, _key(name, e), e) for table in tables.values() for name, e in table.items()])
    timing = latency.conditions([row["latency"] for row in content["rows"] if row["latency"]])
    draws = {name: _draw(row, timing) for name, row in zip(names, content["rows"], strict=True)}
    cells = {name: {m: _cell(m, e, pins) for m, e in table.items()} for name, table in tables.items()}
    model = dict(content["model"])
    weights, code = model.pop("weights_sha256", UNSET), model.pop("code_sha256", UNSET)
    own = own_run(content)
    law(own.name not in content.get("runs", {}), f"runs has {own.name}, the result's own run, twice")
    return {
        "schema": SCHEMA,
        **{key: content[key] for key in SAME[:2]},
        "entry": model,
        "weights": None if weights is UNSET else [] if weights is None else [weights],
        **({} if code is UNSET else {"code": code}),
        **{key: content[key] for key in SAME[2:-2] if key in content},
        "runs": {own.name: own.facts, **content.get("runs", {})},
        "pins": pins,
        "timing": timing,
        "draws": draws,
        "cells": cells,
        "retired": content.get("retired", {}),
        "cost": content.get("cost", {}),
        "seals": {name: seal(table, draws.get(name), pins) for name, table in cells.items()},
    }


# -- file -> long form ------------------------------------------------------------------------------------------------


def _estimate(cell: Mapping[str, Any], pins: Mapping[str, Any]) -> dict[str, Any]:
    shared = pins.get(cell["k"], {}).get("details", {}) if cell.get("value") is not None else {}
    estimate = {"value": cell.get("value"), "ci": cell.get("ci"), "n": cell.get("n", 0), "reason": cell.get("reason")}
    estimate["details"] = {**shared, **cell.get("details", {})}
    named = {"key": "" if cell["k"].startswith("~") else cell["k"], "run": cell.get("run", "")}
    return estimate | {key: value for key, value in named.items() if value}


def _row(
    name: str, draw: Mapping[str, Any], cells: Mapping[str, Any], pins: Mapping[str, Any], timing: Mapping[str, Any]
) -> dict[str, Any]:
    solver, steps, guidance = draw["sampler"]
    row = {
        "solver": solver,
        "steps": steps,
        "guidance": guidance,
        "nfe": draw.get("nfe", {}),
        "metrics": {metric: _estimate(cell, pins) for metric, cell in cells.items()},
        "latency": None if draw.get("latency") is None else latency.unfold(draw["latency"], timing),
        "samples": draw.get("samples", {}),
        "failed": draw.get("failed"),
    }
    named = {"id": "" if name.startswith("~") else name, "run": draw.get("run", "")}
    row |= {key: value for key, value in named.items() if value}
    return row if draw.get("mflop") is None else row | {"mflop": draw["mflop"]}


def broken(content: Mapping[str, Any]) -> list[str]:
    """Draws and flows whose values do not match their seals."""
    draws, pins = content["draws"], content["pins"]
    return [
        name for name, table in content["cells"].items() if content["seals"][name] != seal(table, draws.get(name), pins)
    ]


def check(content: Any) -> None:
    """Raise ValueError in one line, the place first, for plain data that is no file of this schema."""
    require(content, File)


def unfold(content: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The long form of a file, without some draws and flows.

    Raises ValueError in one line, the place first, for a file of another shape and for broken seals of what is not left out.
    """
    check(content)
    bad = [name for name in broken(content) if name not in without]
    if bad:
        raise ValueError(
            f"cells{step(bad[0])} was changed after it was measured: its seal is another; run the benchmark again"
        )
    pins, timing = content["pins"], content.get("timing", {})
    (flow,) = (name for name in content["cells"] if name.startswith(FLOW))
    rows = [
        _row(name, draw, content["cells"][name], pins, timing)
        for name, draw in content["draws"].items()
        if name not in without
    ]
    runs = dict(content["runs"])
    own = runs.pop(next(iter(runs)))
    hashes: dict[str, Any] = {}
    if content["weights"] is not None:
        hashes["weights_sha256"] = content["weights"][0] if content["weights"] else None
    if "code" in content:
        hashes["code_sha256"] = content["code"]
    long = {
        **{key: content[key] for key in SAME if key in content},
        "model": {**content["entry"], **hashes},
        "rows": rows,
        "flow": {} if flow in without else {m: _estimate(c, pins) for m, c in content["cells"][flow].items()},
        "schema": 1,
        "environment": {},
        **own,
    }
    name = own_run(long).name
    law(name not in runs, f"runs{step(name)} is the result's own run under another name")
    flow_id = "" if flow[len(FLOW) :].startswith("~") else flow[len(FLOW) :]
    named = {"flow_id": flow_id, "runs": runs}
    return long | {key: value for key, value in named.items() if value}


# -- text -------------------------------------------------------------------------------------------------------------

DEPTH = {"runs": 1, "pins": 1, "draws": 1, "cells": 2, "retired": 1, "seals": 0}
"""Levels of a field that are written one item per line, so that a change of one value changes one line."""


def lines(value: Any, depth: int, indent: str = "") -> str:
    """JSON text of plain data, its tables a line for each item down to ``depth`` levels."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, separators=(", ", ": "), allow_nan=False)
    inner = indent + " "
    parts = (f"{inner}{json.dumps(key)}: {lines(item, depth - 1, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"


def text(content: Mapping[str, Any]) -> str:
    """The text of a file: one line for every draw and cell."""
    parts = (f" {json.dumps(key)}: {lines(item, DEPTH.get(key, 0), ' ')}" for key, item in content.items())
    return "{\n" + ",\n".join(parts) + "\n}\n"
