"""fmbench list and info."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

import fmbench
from fmbench.cli.shared import DONE, Add, print_json
from fmbench.registry import UnknownName, nearest

KINDS = ("entries", "methods", "tasks", "benchmarks", "metrics")


def _listing(kind: str) -> dict[str, str]:
    """Names of a kind, each with one line where that costs no import."""
    if kind == "metrics":
        from fmbench.records.metric import METRICS

        return {name: _summary(METRICS, name) for name in METRICS}
    return dict.fromkeys(getattr(fmbench, f"list_{kind}")(), "")


def _summary(metrics: Mapping[str, Any], name: str) -> str:
    """What a listing says of a metric; of a plug-in that cannot be imported, why."""
    try:
        return metrics[name].summary
    except ValueError as error:
        return str(error)


def cmd_list(args: argparse.Namespace) -> int:
    """Names, one a line."""
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


def _info(name: str) -> dict[str, Any]:
    """What there is to know about a name of any kind. Raises UnknownName."""
    from fmbench import registry
    from fmbench.records import protocol
    from fmbench.records.metric import METRICS
    from fmbench.storage.bundled import list_benchmarks
    from fmbench.zoo import catalogue

    if name in METRICS:
        measure = METRICS[name].resolve()
        texts = {"definition": sys.modules[measure.__module__].__doc__, "measured": measure.__doc__}
        told = {key: " ".join((text or "").split()) for key, text in texts.items()}
        return {"kind": "metric", "name": name, **dataclasses.asdict(METRICS[name]), **told}
    if name in list_benchmarks():
        return {"kind": "benchmark", **dataclasses.asdict(protocol.read(name))}
    if name in registry.METHODS.all() or name in registry.TOOLS.all():
        kind = registry.trainable(name)
        return {
            "kind": "tool" if name in registry.TOOLS.all() else "method",
            "name": name,
            "summary": kind.summary,
            "reference": kind.reference,
            "text": _first_paragraph(kind.__doc__),
        }
    if name in registry.TASKS.all():
        make = registry.TASKS.resolve(name)
        task = make()
        facts = {
            k: getattr(task, k)
            for k in ("version", "summary", "kind", "shape", "net", "train", "num_classes", "w2_squared")
        }
        return {"kind": "task", "name": name, **facts, "text": _first_paragraph(make.__doc__)}
    try:
        entry = catalogue.find(name)
    except UnknownName:
        known = [
            *METRICS,
            *list_benchmarks(),
            *registry.METHODS.all(),
            *registry.TOOLS.all(),
            *registry.TASKS.all(),
            *catalogue.list_entries(),
        ]
        raise UnknownName(nearest("name", name, known)) from None
    return {"kind": "entry", "name": entry.name, "folder": str(entry.folder), **dataclasses.asdict(entry.recipe)}


def cmd_info(args: argparse.Namespace) -> int:
    """Facts about one name."""
    facts = _info(args.name)
    if args.json:
        print_json(json.loads(json.dumps(facts, default=list)))
        return DONE
    width = max(map(len, facts))
    for key, value in facts.items():
        if value not in (None, "", {}):
            print(f"{key:<{width}}  {value}")
    return DONE


def add(add: Add) -> None:
    """The commands."""
    p = add("list", cmd_list, "names of entries, methods, tasks, benchmarks, metrics")
    p.add_argument("kind", nargs="?", choices=KINDS)
    add("info", cmd_info, "facts about one name").add_argument("name")
