"""Ranking: the rule of the protocol, the division of an entry, and the row it is judged by."""

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
"""Divisions that a recipe can declare."""
CONDITIONAL = " conditional"
DIVISIONS = tuple(name + labels for labels in ("", CONDITIONAL) for name in DECLARED)
"""Divisions that are ranked separately: entries given the class of every sample never compete with those that are not."""
OF_THE_NET = ("network", "guidance", "gradient")
"""Purposes of evaluations of the task's network: forward, once more to guide it, backward."""
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
    """The reason why a result is excluded from the ranking whatever its values; None when it is not."""
    if not result.ranked:
        return "; ".join(result.unranked_because) or "marked as not ranked by the run that made it"
    if result.model.get("division") not in DECLARED:
        return f"division {result.model.get('division')!r} is not ranked"
    if result.status == "claimed":
        return "claimed by its authors, not rescored yet"
    return None


def division_of(result: Result) -> str:
    """The division of a ranked result, one of :data:`DIVISIONS`."""
    return result.model["division"] + (CONDITIONAL if result.model.get("conditional") else "")


def applies(row: Row) -> bool:
    """Whether the entry was run with this sampler: a row without one number did not fail, it does not apply."""
    return row.failed is not None or any(e.value is not None for e in row.metrics.values())


def mflop_of(result: Result, row: Row) -> float | None:
    """Millions of floating-point operations per sample; None where not counted.

    For a row without the count, its evaluations times the operations of one evaluation from the cost of the result: the same for a model
    of one network.
    """
    if row.mflop is not None:
        return row.mflop
    one = result.cost.get("flops_per_evaluation")
    return one * _spent(row) / 1e6 if isinstance(one, int | float) else None


def rank_row(result: Result, budget: int) -> Row | None:
    """The row an entry is judged by: the one with the most operations per sample within the budget, the first of the protocol of several.

    The budget is of evaluations: in the closed division those of the task's network (:data:`OF_THE_NET`), whose heads and decoders are small
    and shared, elsewhere those of all networks. Solvers that choose their steps are left out: they cannot be given a budget. A
    failed row counts as if it had taken one evaluation a step, so that an entry is not judged by what it does with less. What a row scores
    plays no part.
    """
    closed = result.model.get("division") == "closed"
    within = [
        row
        for row in result.rows
        if (row.steps is not None or row.solver in ONE_PASS) and applies(row) and _spent(row, closed) <= budget + 1e-9
    ]
    work = [mflop_of(result, row) for row in within]
    if None in work:
        # Operations of some rows cannot be compared with evaluations of others.
        work = [_spent(row) for row in within]
    best = max(range(len(within)), key=lambda i: work[i] or 0.0, default=None)
    return None if best is None else within[best]


def _spent(row: Row, of_the_net: bool = False) -> float:
    if not row.nfe:
        return float(row.steps or 1)
    return sum(count for purpose, count in row.nfe.items() if not of_the_net or purpose in OF_THE_NET)


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
