"""Result files -> README, CSV tables and page of a leaderboard folder: all of them, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fmbench.records.result import Result
from fmbench.report import csv, markdown, site
from fmbench.report.ranking import rank_rule
from fmbench.report.reading import read_results
from fmbench.report.readme import fill
from fmbench.report.table import Table, TableKey, build
from fmbench.storage.bundled import data_folder
from fmbench.storage.files import write_atomic


def tables_of(
    results: Sequence[Result],
    folder: Path | None = None,
    rank_steps: int | None = None,
    primary: Mapping[str, str] | None = None,
) -> dict[TableKey, Table]:
    """All tables, each benchmark ranked as its protocol (in ``folder``, else bundled) says unless told otherwise."""
    folder = folder or data_folder("leaderboard")
    tables: dict[TableKey, Table] = {}
    for name in sorted({str(result.benchmark["name"]) for result in results}):
        rule = rank_rule(name, folder)
        chosen = [result for result in results if str(result.benchmark["name"]) == name]
        tables.update(build(chosen, rank_steps or rule.steps, primary or rule.primary))
    return tables


def build_leaderboard(folder: Path, readme: Path | None = None) -> list[Path]:
    """Write ``README.md``, ``index.html`` and ``tables/<benchmark>.csv`` from ``folder/results``; return their paths.

    With ``readme`` the marked tables of that file are filled too (:mod:`fmbench.report.readme`). The same results give the same bytes.
    Raises ValueError naming the file when one is damaged; nothing is written.
    """
    results = read_results(folder / "results")
    tables = tables_of(results, folder)
    contents = {folder / "README.md": markdown.render(tables), folder / "index.html": site.render(tables)}
    for name in sorted({result.benchmark["name"] for result in results}):
        contents[folder / "tables" / f"{name}.csv"] = csv.render([r for r in results if r.benchmark["name"] == name])
    if readme is not None:
        contents[readme] = fill(readme.read_text(), tables)
    for path, content in contents.items():
        write_atomic(path, content)
    return list(contents)
