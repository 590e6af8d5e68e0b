"""Result files -> README, CSV tables and page of a leaderboard folder."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fmbench.records.result import Result
from fmbench.report import csv, markdown, site
from fmbench.report.ranking import rank_rule
from fmbench.report.reading import read_results
from fmbench.report.readme import fill
from fmbench.report.table import Table, TableKey, build
from fmbench.storage.bundled import data_folder
from fmbench.storage.files import write_atomic
from fmbench.storage.readers import first_line


@dataclass(frozen=True)
class Built:
    """What a build did: the files it wrote, and one line for each file it had to leave out, which names it."""

    written: list[Path]
    problems: list[str]


def by_benchmark(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each benchmark, benchmarks by name."""
    names = sorted({str(result.benchmark["name"]) for result in results})
    return {name: [result for result in results if str(result.benchmark["name"]) == name] for name in names}


def tables_of(
    results: Sequence[Result],
    folder: Path | None = None,
    rank_steps: int | None = None,
    primary: Mapping[str, str] | None = None,
) -> dict[TableKey, Table]:
    """All tables, each benchmark ranked as its protocol (in ``folder``, else bundled) says unless told otherwise.

    Raises ValueError naming a protocol that cannot be read.
    """
    tables: dict[TableKey, Table] = {}
    for name, chosen in by_benchmark(results).items():
        rule = rank_rule(name, folder or data_folder("leaderboard"))
        tables.update(build(chosen, rank_steps or rule.steps, primary or rule.primary))
    return tables


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cyclic garbage: there is none in results and tables, and looking at millions of living objects is a fifth of the work."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def build_leaderboard(folder: Path, readme: Path | None = None) -> Built:
    """Write ``README.md``, ``index.html`` and ``tables/<benchmark>.csv`` from ``folder/results``.

    With ``readme`` the marked tables of that file are filled too (:mod:`fmbench.report.readme`). The same results give the same bytes.
    A file that cannot be believed is left out and named in ``problems``, a benchmark whose protocol cannot be read likewise; the others are
    there. A ``readme`` with a mark that there is no table for stays as it is and is a problem too. Raises OSError when it cannot be read.
    """
    with _uncollected():
        return _build(folder, readme)


def _build(folder: Path, readme: Path | None) -> Built:
    found = read_results(folder / "results")
    problems = list(found.problems)
    tables: dict[TableKey, Table] = {}
    contents: dict[Path, str] = {}
    for name, chosen in by_benchmark(found.results).items():
        try:
            tables.update(tables_of(chosen, folder))
        except ValueError as error:
            problems.append(first_line(error))
            continue
        contents[folder / "tables" / f"{name}.csv"] = csv.render(chosen)
    contents = {folder / "README.md": markdown.render(tables), folder / "index.html": site.render(tables)} | contents
    if readme is not None:
        try:
            contents[readme] = fill(readme.read_text(), tables)
        except ValueError as error:
            problems.append(f"{readme} stays as it is: {first_line(error)}")
    for path, content in contents.items():
        write_atomic(path, content)
    return Built(list(contents), problems)
