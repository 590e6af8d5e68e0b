"""Who is ranked where: the rule of the protocol, and the row an entry is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmbench.records.names import ANCHORS
from fmbench.records.protocol import check_rank
from fmbench.records.result import Result, Row
from fmbench.records.sampler import ONE_PASS
from fmbench.storage.bundled import data_folder
from fmbench.storage.readers import read_toml

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

    Raises ValueError in one line that names the file for a ``[rank]`` table that :func:`~fmbench.records.protocol.check_rank` refuses.
    """
    if Path(benchmark).name != benchmark:
        return RankRule()
    paths = [root / "protocols" / f"{benchmark}.toml" for root in (folder, data_folder("leaderboard"))]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return RankRule()
    content = read_toml(path, "protocol")
    table, tasks = content.get("rank", {}), content.get("tasks", [])
    if not isinstance(table, dict):
        raise ValueError(f"{path}: rank must be a table, got {table!r:.80}")
    named = [task for task in tasks if isinstance(task, str)] if isinstance(tasks, list) else []
    check_rank(table, named, f"{path} [rank]")
    return RankRule(table.get("steps", STEPS), {**PRIMARY, **{k: v for k, v in table.items() if k != "steps"}})


def anchor(result: Result) -> str | None:
    """``data`` or ``oracle`` for the task's anchor rows, else None."""
    name = str(result.model["name"])
    return next((a for a in ANCHORS if name == f"{result.task['name']}/{a}"), None)


def unranked_reason(result: Result) -> str | None:
    """Why a result takes no part in the ranking whatever its numbers are; None when it does."""
    if not result.ranked:
        return "; ".join(result.unranked_because) or "marked as not ranked by the run that made it"
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
    """The row an entry is judged by: the one with the most measured evaluations within the budget, the first of the protocol of several.

    Evaluations of every purpose count. Solvers that choose their steps are left out: nobody could have asked for a budget. A failed row
    counts as if it had taken one evaluation a step, so that an entry is not judged by what it does with less.
    """
    fixed = [row for row in rows if (row.steps is not None or row.solver in ONE_PASS) and applies(row)]
    return max((row for row in fixed if _spent(row) <= budget + 1e-9), key=_spent, default=None)


def _spent(row: Row) -> float:
    return row.total_nfe if row.nfe else float(row.steps or 1)


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
