"""fmbench list and info."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

import fmbench
from fmbench.cli.about_method import about
from fmbench.cli.shared import DONE, Add, print_json
from fmbench.registry import REGISTRIES, UnknownName, nearest

KINDS = ("entries", "benchmarks", "metrics", *REGISTRIES)


def _listing(kind: str) -> dict[str, str]:
    """Names of a kind, each with one line where that costs no import."""
    if kind == "metrics":
        from fmbench.records.metric import METRICS

        return {name: _summary(METRICS, name) for name in METRICS}
    if kind in REGISTRIES:
        return dict.fromkeys(REGISTRIES[kind].all(), "")
    if kind == "entries":
        from fmbench.zoo.resolve import resolve

        return {name: resolve(name).entry.where for name in fmbench.list_entries()}
    return dict.fromkeys(getattr(fmbench, f"list_{kind}")(), "")


def _summary(metrics: Mapping[str, Any], name: str) -> str:
    """The summary of a metric in a listing; for a plug-in that cannot be imported, the reason."""
    try:
        return metrics[name].summary
    except ValueError as error:
        return str(error)


def cmd_list(args: argparse.Namespace) -> int:
    """Print names, one per line."""
    kinds = KINDS if args.kind is None else (args.kind,)
    listing = {kind: _listing(kind) for kind in kinds}
    if args.json:
        print_json({kind: list(names) for kind, names in listing.items()})
        return DONE
    for kind, names in listing.items():
        if args.kind is None:
            print(f"{kind} ({len(names)})")
        indent = "  " if args.kind is None else ""
        width = max(map(len, names), default=0)
        for name, summary in names.items():
            print(f"{indent}{name:<{width}}  {summary}".rstrip())
    return DONE


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _metric(name: str) -> dict[str, Any]:
    from fmbench.records.metric import METRICS

    measure = METRICS[name].resolve()
    texts = {"definition": sys.modules[measure.__module__].__doc__, "measured": measure.__doc__}
    told = {key: " ".join((text or "").split()) for key, text in texts.items()}
    return {**dataclasses.asdict(METRICS[name]), **told}


def _task(name: str) -> dict[str, Any]:
    make = REGISTRIES["tasks"].resolve(name)
    task = make()
    keys = ("version", "summary", "kind", "shape", "net", "train", "num_classes", "w2_squared")
    # The kind of a task is that of its points; the kind of the name is "task".
    facts = {"space" if key == "kind" else key: getattr(task, key) for key in keys}
    return {**facts, "text": _first_paragraph(make.__doc__)}


def _registered(kind: str, name: str) -> dict[str, Any]:
    """The summary, reference and docstring of a registered class or function."""
    if kind == "tasks":
        return _task(name)
    if kind == "methods" and name in REGISTRIES[kind].table:
        return about(name)
    found = REGISTRIES[kind].resolve(name)
    said = {key: getattr(found, key) for key in ("summary", "reference") if isinstance(getattr(found, key, None), str)}
    return {**said, "text": _first_paragraph(found.__doc__)}


def _entry(name: str) -> dict[str, Any] | None:
    """The facts of an entry or a folder, None for a name that is neither."""
    from fmbench.zoo.resolve import resolve

    try:
        entry = resolve(name).entry
    except UnknownName:
        return None
    head = {"kind": "entry", "name": entry.name, "folder": str(entry.folder), "weights are": entry.where}
    return {**head, **dataclasses.asdict(entry.recipe)}


def _info(name: str, wanted: str | None = None) -> dict[str, Any]:
    """The facts about a name, of the given kind where it has several. Raises UnknownName."""
    from fmbench.records import protocol

    listed = {kind: _listing(kind) for kind in KINDS if kind != "entries" and wanted in (None, kind[:-1])}
    kinds = [kind for kind, names in listed.items() if name in names]
    if not kinds:
        if wanted in (None, "entry") and (facts := _entry(name)) is not None:
            return facts
        known = {*_listing("entries"), *(known for names in listed.values() for known in names)}
        raise UnknownName(nearest(wanted or "name", name, known))
    kind, *others = (kind[:-1] for kind in kinds)
    also = {"also": ", ".join(f"fmbench info {name} --kind {other}" for other in others)} if others else {}
    head = {"kind": kind, "name": name, **also}
    if kind == "metric":
        return {**head, **_metric(name)}
    return {**head, **(dataclasses.asdict(protocol.read(name)) if kind == "benchmark" else _registered(kinds[0], name))}


def cmd_info(args: argparse.Namespace) -> int:
    """Print the facts about one name."""
    facts = _info(args.name, args.kind)
    if args.json:
        print_json(json.loads(json.dumps(facts, default=list)))
        return DONE
    width = max(map(len, facts))
    for key, value in facts.items():
        if value not in (None, "", {}):
            print(f"{key:<{width}}  {value}")
    return DONE


def add(add: Add) -> None:
    """Add the commands."""
    p = add("list", cmd_list, f"names of {', '.join(KINDS)}")
    p.add_argument("kind", nargs="?", choices=KINDS)
    p = add("info", cmd_info, "facts about one name")
    p.add_argument("name")
    p.add_argument("--kind", choices=("entry", *(kind[:-1] for kind in KINDS[1:])), help="of a name that has several")
