"""Results for Python: a data frame of everything in a folder, and two entries compared in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbench.records.aliases import canonical
from fmbench.records.frames import frame
from fmbench.records.metric import METRICS
from fmbench.records.result import Result
from fmbench.report.cells import plain, with_half_width
from fmbench.report.ranking import PRIMARY, primary_metric, rank_row, rank_rule
from fmbench.report.reading import read_results
from fmbench.report.standings import Standing, compare, standing
from fmbench.report.trainings import joined_trainings
from fmbench.storage.bundled import data_folder, list_benchmarks

if TYPE_CHECKING:
    import pandas as pd


def _read(source: str | Path | None) -> list[Result]:
    """The results of a folder, of a bundled benchmark, or of the bundled leaderboard. Raises ValueError for one that has none."""
    chosen = None
    folder = data_folder("leaderboard") if source is None else Path(source)
    if isinstance(source, str) and not folder.is_dir() and source in list_benchmarks():
        folder, chosen = data_folder("leaderboard"), source
    if not folder.is_dir():
        raise ValueError(f"{source} is neither a folder nor a benchmark; benchmarks: {', '.join(list_benchmarks())}")
    found = read_results(folder / "results" if (folder / "results").is_dir() else folder)
    kept = [r for r in found.results if chosen in (None, r.benchmark["name"])]
    if not kept:
        why = f"; {found.problems[0]}" if found.problems else ""
        raise ValueError(f"{source or folder} holds no results{why}")
    return kept


def results(source: str | Path | None = None) -> pd.DataFrame:
    """Every number of a folder of results, or of a benchmark in the bundled leaderboard (all of it by default): one row each.

    Columns: :func:`fmbench.records.frames.frame`. Raises ValueError in one line for what is neither, and for a folder without results.
    """
    return frame(_read(source))


@dataclass(frozen=True)
class Comparison:
    """Two entries on one task of a benchmark.

    Attributes:
        table: one row per metric that both have at the sampler they are judged by: values with intervals, which is better, and whether the
            difference is beyond doubt by the rule of the tables.
        verdict: one sentence about the metric that ranks.
    """

    table: pd.DataFrame
    verdict: str

    def __repr__(self) -> str:
        return f"{self.verdict}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.verdict)}</p>{self.table.to_html(index=False, escape=True)}"


def compare_entries(a: str, b: str, benchmark: str, source: str | Path | None = None) -> Comparison:
    """Compare the entries ``task/a`` and ``task/b`` by their results in a benchmark: the bundled ones, or those of a folder ``source``.

    A pair is a family of its own here, so a difference may be beyond doubt that a whole table, which makes more comparisons, does not
    separate. Entries of several trainings are compared as methods. Raises ValueError in one line for entries without results.
    """
    import pandas as pd

    one, other = _pair(a, b, benchmark, source)
    rule = rank_rule(benchmark, Path(source) if source is not None else data_folder("leaderboard"))
    primary = primary_metric([one, other], rule.primary or PRIMARY)
    rows = [rank_row(r, rule.steps) for r in (one, other)]
    lines: list[dict[str, Any]] = []
    tables = [{**(row.metrics if row is not None else {}), **r.flow} for r, row in zip((one, other), rows, strict=True)]
    for name in (n for n in tables[0] if n in tables[1] and n in METRICS):
        first, second = tables[0][name], tables[1][name]
        if first.value is None or second.value is None:
            continue
        found = [standing(e) for e in (first, second)]
        lines.append({"metric": name, a: _shown(found[0]), b: _shown(found[1]), **_judged(found, name, (a, b))})
    table = pd.DataFrame(lines, columns=["metric", a, b, "better", "beyond doubt"])
    return Comparison(table, _verdict(table, primary, a, b, rule.steps))


def _pair(a: str, b: str, benchmark: str, source: str | Path | None) -> tuple[Result, Result]:
    everything = joined_trainings([r for r in _read(source) if r.benchmark["name"] == benchmark])
    found = {str(r.model["name"]): r for r in everything}
    for name in (a, b):
        if canonical(name) not in found and name not in found:
            near = ", ".join(sorted(n for n in found if n.partition("/")[0] == name.partition("/")[0])[:12])
            raise ValueError(f"{benchmark} has no result of {name}; of its task there are {near or 'none'}")
    one, other = (found.get(name) or found[canonical(name)] for name in (a, b))
    if one.task["name"] != other.task["name"]:
        raise ValueError(f"{a} and {b} are of different tasks")
    return one, other


def _shown(of: Standing) -> str:
    low, high = of.interval
    return plain(of.value) if low == high else with_half_width(of.value, (high - low) / 2)


def _judged(found: list[Standing], name: str, names: tuple[str, str]) -> dict[str, Any]:
    info = METRICS[name]
    if info.better not in ("lower", "higher"):
        return {"better": "", "beyond doubt": ""}
    ranks = compare(found, info)
    first = (found[0].value < found[1].value) == (info.better == "lower")
    certain = sorted(ranks.lowest) == [1, 2]
    return {
        "better": "" if found[0].value == found[1].value else names[0 if first else 1],
        "beyond doubt": "yes" if certain else "no",
    }


def _verdict(table: pd.DataFrame, primary: str, a: str, b: str, steps: int) -> str:
    info, at = METRICS[primary], f"{METRICS[primary].label} @{steps}"
    line = table[table["metric"] == primary]
    if line.empty:
        return f"{a} and {b} have no {info.label} in common at up to {steps} evaluations, so they cannot be compared by it."
    better, certain = line["better"].item(), line["beyond doubt"].item()
    values = f"{line[a].item()} against {line[b].item()}"
    if not better or certain != "yes":
        return f"{a} and {b} are not separated by {at}: {values}."
    return f"{better} is better than {b if better == a else a} by {at}, beyond doubt: {values}."
