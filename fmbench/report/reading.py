"""Reading of untrusted result files: every valid one below a folder, and one line for each other file.

The names in a file become file names and headings, so its path must match them: ``<benchmark>/<task>/<entry>.json``. Links are
not followed, pipes and devices are not opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fmbench.records import result
from fmbench.records.result import Result

DEPTH = 3
"""Parts of a place: benchmark, task, file."""


@dataclass(frozen=True)
class Found:
    """The results in a folder in the order of their paths, and one line naming each file left out."""

    results: list[Result]
    problems: list[str]


def _problem(entry: os.DirEntry[str], depth: int) -> str | None:
    """The reason why a path can be neither a result nor a folder of results; None when it can."""
    folder = entry.is_dir(follow_symlinks=False)
    if entry.is_symlink():
        return "is a symbolic link, which is not followed"
    if entry.name.startswith("."):
        return f"is hidden, so no {'folder of results' if folder else 'result'}"
    if folder:
        return "is a folder where result files belong" if depth == DEPTH else None
    if not entry.is_file(follow_symlinks=False):
        return "is no regular file"
    if not entry.name.endswith(".json"):
        return "is no result, which would end in .json"
    return None if depth == DEPTH else "is in the wrong place; results are <benchmark>/<task>/<entry>.json"


def _scan(folder: Path, problems: list[str], depth: int = 1) -> Iterator[Path]:
    """Files that may be results, in order; others are added to ``problems``, except files that are not JSON."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"{folder} cannot be read: {error.strerror or error}")
        return
    for entry in listed:
        path = folder / entry.name
        if entry.is_file(follow_symlinks=False) and ".json" not in entry.name.lower():
            continue
        if (problem := _problem(entry, depth)) is not None:
            problems.append(f"{path} {problem}")
        elif depth < DEPTH:
            yield from _scan(path, problems, depth + 1)
        else:
            yield path


def printable(text: str) -> str:
    """Text as one line that moves no cursor: names of files may hold line breaks, control characters and bytes that are no text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def read_result(path: Path, folder: Path) -> Result:
    """Read ``folder/<benchmark>/<task>/<entry>.json``.

    Raises FileNotFoundError, or ValueError in one line that names the file, when :func:`fmbench.records.result.read` does or when the names
    in the file differ from its path.
    """
    found = result.read(path)
    place = (found.benchmark["name"], found.task["name"], f"{found.entry}.json")
    if path.relative_to(folder).parts != place:
        raise ValueError(f"{path}: it says to be {'/'.join(place)}")
    return found


def read_results(folder: Path) -> Found:
    """All valid results below a folder; a file that is invalid or misplaced is reported as a problem and left out."""
    results, problems = [], []
    for path in _scan(folder, problems):
        try:
            results.append(read_result(path, folder))
        except FileNotFoundError:
            continue  # gone since it was listed
        except ValueError as error:
            problems.append(str(error))
    return Found(results, [printable(problem) for problem in problems])
