"""Choice of the device by name, for the command line and for Python."""

from __future__ import annotations

import re

from fmbench.registry import UnknownName


def resolve_device(name: str) -> str:
    """The device of a name: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which takes CUDA when there is one.

    Raises UnknownName in one line for anything that is not available here.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    found = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
    if name != "cpu" and not (found and int(found[1] or 0) < count):
        available = ", ".join(["cpu", *(["cuda"] if count else []), *(f"cuda:{k}" for k in range(count))])
        raise UnknownName(f"device {name!r} is not available here; available: {available}")
    return name
