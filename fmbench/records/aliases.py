"""Other names of entries: methods that are one objective on a task, or were entries before, are one entry with several names.

The table is ``aliases.toml`` of the zoo: ``"digits/fm" = "digits/cfm"``. A test trains them and compares the weights bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fmbench.records.names import check_name, split_training
from fmbench.storage.bundled import data_folder
from fmbench.storage.readers import read_toml

FILE = "aliases.toml"


@cache
def read_aliases(path: Path) -> Mapping[str, str]:
    """Other name -> name, both ``task/entry``, of a file; empty where there is none. Raises ValueError in one line for what is no such table."""
    if not path.is_file():
        return {}
    found = read_toml(path, "table of other names")
    for other, name in found.items():
        if not isinstance(name, str) or name in found or other.count("/") != 1 or name.count("/") != 1:
            raise ValueError(f"{path}: {other!r:.80} must name an entry by task/entry, got {name!r:.80}")
        for part in (*other.split("/"), *name.split("/")):
            check_name(part, f"an entry in {path}")
    return found


def bundled() -> Mapping[str, str]:
    """The other names of the entries that come with the package."""
    return read_aliases(data_folder("zoo") / FILE)


def canonical(name: str) -> str:
    """The name of the entry that ``task/entry`` or ``task/entry@K`` is another name of; names that are none are unchanged."""
    entry, index = split_training(name)
    own = bundled().get(entry)
    return name if own is None else own if index is None else f"{own}@{index}"


def others(name: str) -> list[str]:
    """The other names of ``task/entry``, the last parts alone, sorted."""
    return sorted(other.rpartition("/")[2] for other, own in bundled().items() if own == name)
