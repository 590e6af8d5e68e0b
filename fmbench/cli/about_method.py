"""The facts about a method that ``fmbench info`` prints: paper, objective, defaults, capabilities, entries, best results."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from fmbench.records.metric import METRICS
from fmbench.records.result import Result, Row
from fmbench.report.ranking import rank_row, rank_rule
from fmbench.report.reading import read_results
from fmbench.storage.bundled import data_folder

TASK = "gaussian-8gaussians"
"""The task that a method is built on to ask for its capabilities."""


def about(name: str) -> dict[str, Any]:
    """The facts, in the order of printing; what a method does not have is left out."""
    from fmbench.registry import METHODS

    kind = METHODS.resolve(name)
    yes = {
        "trains": kind.trains,
        "needs a teacher": kind.needs_base,
        "needs a Gaussian source": kind.gaussian_source_only,
    }
    return {
        "summary": kind.summary,
        "reference": kind.reference,
        "objective": kind.objective,
        "text": " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()),
        "defaults": _defaults(kind),
        **{fact: "yes" if true else "no" for fact, true in yes.items()},
        "capabilities": ", ".join(sorted(_capabilities(name))),
        "entries": ", ".join(_entries(name)),
        **dict(_best(name)),
    }


def _defaults(kind: type) -> str:
    """``name = value`` of the parameters of a recipe's ``[method]`` table."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[2:]
    return ", ".join(f"{p.name} = {p.default!r}" for p in parameters if p.default is not p.empty)


def _capabilities(name: str) -> Iterable[str]:
    from fmbench.records.recipe import closed
    from fmbench.zoo.building import build, make_task
    from fmbench.zoo.code import method_class

    task = make_task(TASK, name)
    return build(closed(task, name), task, method_class(name), name).capabilities


def _entries(name: str) -> list[str]:
    """Bundled entries that are trained with the method."""
    import fmbench
    from fmbench.zoo.resolve import resolve

    return [entry for entry in fmbench.list_entries() if resolve(entry).entry.recipe.method["name"] == name]


def _best(name: str) -> Iterator[tuple[str, str]]:
    """The best committed result in every table: at the steps that rank it, and in one step where the method has that too."""
    own: dict[tuple[str, str], list[Result]] = {}
    for result in read_results(data_folder("leaderboard") / "results").results:
        if result.model.get("method") == name:
            own.setdefault((result.benchmark["name"], result.task["name"]), []).append(result)
    for (bench, task), results in sorted(own.items()):
        rule = rank_rule(bench, data_folder("leaderboard"))
        primary = rule.primary.get(task) or rule.primary[results[0].task["kind"]]
        found = dict.fromkeys(filter(None, (_told(results, primary, steps) for steps in (1, rule.steps))))
        if found:
            yield f"best on {bench}/{task}", "; ".join(found)


def _told(results: list[Result], primary: str, budget: int) -> str:
    """``W2 0.58 at euler-1 (gaussian-8gaussians/rf-3)`` of the best of some results within a budget of evaluations; nothing without one."""
    rows = [(result, row) for result in results if (row := rank_row(result, budget)) is not None]
    scored = [(value, result, row) for result, row in rows if (value := _value(row, primary)) is not None]
    if not scored:
        return ""
    info = METRICS[primary]
    value, result, row = (max if info.better == "higher" else min)(scored, key=lambda one: one[0])
    return f"{info.label} {value:.4g} at {row.sampler.label} ({result.model['name']})"


def _value(row: Row, primary: str) -> float | None:
    estimate = row.metrics.get(primary)
    return None if estimate is None else estimate.value
