"""The rule for names that become folders and files: benchmarks, tasks, entries, samples.

A name can neither leave its folder nor replace another. Every name from outside is checked by :func:`check_name` where it enters, and
again where a file is written.
"""

from __future__ import annotations

import re

LONGEST = 100
ANCHORS = {"data": "the row of real samples", "oracle": "the row of the exact velocity"}
"""Names that tables reserve for anchor rows."""
_RULE = re.compile(r"[A-Za-z0-9_+=](?:[A-Za-z0-9_+=., -]*[A-Za-z0-9_+=-])?")
_TRAINING = re.compile(r"(.+)@(0|[1-9][0-9]{0,2})")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows treats as devices in any folder."""


def check_name(name: object, what: str) -> str:
    """The name, when it may become a file name. ``what`` says of what, for the message.

    Raises ValueError in one line for anything but 1 to :data:`LONGEST` letters, digits and ``. , _ - + =`` or spaces inside, for names that
    start with a dot or end in one, and for device names of Windows.
    """
    fine = isinstance(name, str) and len(name) <= LONGEST and _RULE.fullmatch(name) and not _DEVICES.fullmatch(name)
    if not fine:
        raise ValueError(
            f"{name!r:.120} cannot name {what}: a name has 1 to {LONGEST} letters, digits and . , _ - + = or spaces inside, "
            "and starts with a letter, a digit or _ + ="
        )
    return str(name)


def split_training(name: str) -> tuple[str, int | None]:
    """``cfm@2`` -> ``("cfm", 2)``: the entry, and which of its trainings, counted from 0; None where the name says none."""
    found = _TRAINING.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, None)


def training_name(entry: str, index: int) -> str:
    """The name of one training: ``cfm@2``; that of the first is the entry's own."""
    return f"{entry}@{index}" if index else entry


def check_training_name(name: object, what: str) -> str:
    """:func:`check_name` for a name that may end in ``@1`` to ``@999``, a training of its entry, with or without ``.json``."""
    stem = name.removesuffix(".json") if isinstance(name, str) else name
    entry, index = split_training(stem) if isinstance(stem, str) else (stem, None)
    if not index:
        return check_name(name, what)
    check_name(entry, what)
    return str(name)


def check_entry_name(name: object, what: str = "a model") -> str:
    """The name of a submission: one that :func:`check_name` allows and that is no anchor's. Raises ValueError."""
    if isinstance(name, str) and name.lower() in ANCHORS:
        raise ValueError(f"{name!r} is what tables call {ANCHORS[name.lower()]}; give {what} another name")
    return check_name(name, what)


def check_name_in(where: str, name: object, what: str) -> None:
    """:func:`check_name` for a field of a record: the message of its ValueError starts with ``where`` the name stands."""
    try:
        check_name(name, what)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
