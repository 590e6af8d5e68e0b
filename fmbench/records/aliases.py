"""Other names of entries: methods that are one objective on a task, or were entries before, are one entry with several names.

The table is ``aliases.toml`` of the zoo: ``"digits/fm" = "digits/cfm"``, or ``"mnist/fm" = "mnist/cfm@1"`` where it names one training.
Tests train them and compare the weights bit by bit, or compare their losses on the same batches.
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
    """Other name -> name, ``task/entry`` or ``task/entry@K``, of a file; empty where there is none.

    Raises ValueError in one line for what is no such table.
    """
    if not path.is_file():
        return {}
    found = read_toml(path, "table of other names")
    for other, name in found.items():
        entry = split_training(name)[0] if isinstance(name, str) else ""
        if entry in found or other.count("/") != 1 or entry.count("/") != 1:
            raise ValueError(f"{path}: {other!r:.80} must name an entry by task/entry, got {name!r:.80}")
        for part in (*other.split("/"), *entry.split("/")):
            check_name(part, f"an entry in {path}")
    return found


def bundled() -> Mapping[str, str]:
    """The other names of the entries that come with the package."""
    return read_aliases(data_folder("zoo") / FILE)


def canonical(name: str) -> str:
    """The name of what ``task/entry`` or ``task/entry@K`` is another name of; names that are none are unchanged.

    Raises ValueError for a further training of a name that means one training.
    """
    entry, index = split_training(name)
    own = bundled().get(entry)
    if own is None:
        return name
    one = split_training(own)[1]
    if index is None or (one is not None and index == 0):
        return own
    if one is not None:
        raise ValueError(f"{name}: {entry} is one training, {own}, and has no others")
    return f"{own}@{index}"


def others(name: str, whole: bool = False) -> list[str]:
    """The other names of ``task/entry`` or of one training of it, the last parts alone, sorted; those of all trainings of a ``whole`` entry."""
    found = [(other, split_training(own)[0] if whole else own) for other, own in bundled().items()]
    return sorted(other.rpartition("/")[2] for other, own in found if own == name)
