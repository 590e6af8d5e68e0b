"""Who is ranked where: the rule of the protocol, the row an entry is judged by, and shared ranks."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmbench.records.result import Result, Row
from fmbench.statistics.comparisons import Standing, below, shared_ranks, standing  # noqa: F401 (the rest of the report takes them from here)
from fmbench.storage.bundled import data_folder

ANCHORS = ("data", "oracle")
DECLARED = ("closed", "open")
"""What a recipe can say."""
CONDITIONAL = " conditional"
DIVISIONS = tuple(name + labels for labels in ("", CONDITIONAL) for name in DECLARED)
"""What is ranked apart: an entry that is told the class of every sample never competes with one that is not."""
PRIMARY = {"vector": "wasserstein2", "image": "frechet_distance"}
STEPS = 8


@dataclass(frozen=True)
class RankRule:
    """The ``[rank]`` table of a protocol: budget of steps, and the primary metric by task or kind of task."""

    steps: int = STEPS
    primary: Mapping[str, str] = field(default_factory=lambda: dict(PRIMARY))


def rank_rule(benchmark: str, folder: Path) -> RankRule:
    """The rule of a benchmark: in ``folder/protocols``, else in the bundled protocols, else the default rule.

    Raises ValueError naming the file when its ``[rank]`` table is not ``{steps = ..., <kind> = "<metric>"}``.
    """
    if Path(benchmark).name != benchmark:
        return RankRule()
    paths = [root / "protocols" / f"{benchmark}.toml" for root in (folder, data_folder("leaderboard"))]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return RankRule()
    try:
        table = dict(tomllib.loads(path.read_text()).get("rank", {}))
    except ValueError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    steps = table.pop("steps", STEPS)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"{path} [rank]: steps must be a whole number of at least 1, got {steps!r}")
    for kind, metric in table.items():
        if not isinstance(metric, str):
            raise ValueError(f"{path} [rank]: {kind} must name a metric, got {metric!r}")
    return RankRule(steps, {**PRIMARY, **table})


def anchor(result: Result) -> str | None:
    """``data`` or ``oracle`` for the task's anchor rows, else None."""
    name = str(result.model["name"])
    return next((a for a in ANCHORS if name == f"{result.task['name']}/{a}"), None)


def unranked_reason(result: Result) -> str | None:
    """Why a result takes no part in the ranking whatever its numbers are; None when it does."""
    if not result.ranked:
        return "marked as not ranked by the run that made it (a --limit run, or an entry that is not to be ranked)"
    if result.model.get("division") not in DECLARED:
        return f"division {result.model.get('division')!r} is not ranked"
    if result.status == "claimed":
        return "claimed by its authors, not rescored yet"
    return None


def division_of(result: Result) -> str:
    """The one of :data:`DIVISIONS` that a ranked result stands in."""
    return result.model["division"] + (CONDITIONAL if result.model.get("conditional") else "")


def applies(row: Row) -> bool:
    """Whether the entry was run with this sampler: a row without one number did not fail, it does not apply."""
    return row.failed is not None or any(e.value is not None for e in row.metrics.values())


def rank_row(rows: Sequence[Row], budget: int) -> Row | None:
    """The row an entry is judged by: the largest number of fixed steps in the budget, for a one-step map its one step.

    Of several samplers with as many steps, the one with the fewest evaluations, then the first of the protocol.
    """
    fixed = [row for row in rows if row.steps is not None and row.steps <= budget and applies(row)]
    return max(fixed, key=lambda row: (row.steps or 0, -row.total_nfe), default=None)


def primary_metric(results: Sequence[Result], primary: Mapping[str, str]) -> str:
    """The metric that ranks a task: its own or that of its kind if recorded, else the one most rows have a number for."""
    tasks = {str(result.task.get("name")) for result in results}
    if len(tasks) == 1 and (task := tasks.pop()) in primary:
        return primary[task]
    kinds = {str(result.task.get("kind")) for result in results}
    if len(kinds) == 1 and (kind := kinds.pop()) in primary:
        return primary[kind]

    def numbers(metric: str) -> int:
        rows = (row for result in results for row in result.rows)
        return sum(metric in row.metrics and row.metrics[metric].value is not None for row in rows)

    return max(primary.values(), key=numbers)
