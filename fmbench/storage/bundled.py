"""Data that comes with the package: the folders ``zoo`` and ``leaderboard``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


@cache
def data_folder(name: str) -> Path:
    """The folder ``zoo`` or ``leaderboard``: inside an installed wheel, or beside the package in a checkout.

    Raises FileNotFoundError when the installation lacks it.
    """
    for candidate in (PACKAGE / "_data" / name, PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no {name} folder beside or inside {PACKAGE}; reinstall flow-matching-bench")


def list_benchmarks() -> list[str]:
    """Names of the bundled benchmark protocols."""
    return sorted(path.stem for path in (data_folder("leaderboard") / "protocols").glob("*.toml"))
