"""What the commands share: exit codes, argument types, progress."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

DONE, FAILED, USAGE = 0, 1, 2
Add = Callable[..., argparse.ArgumentParser]
"""Adds a subcommand: (name, call, text) -> its parser."""


class UsageError(ValueError):
    """The request itself is wrong: exit code 2."""


def print_json(content: Any) -> None:
    """Print plain data as JSON."""
    print(json.dumps(content, indent=2))


def setting(text: str) -> tuple[str, Any]:
    """``key=value`` with the value in TOML, or a bare word."""
    import tomllib

    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    try:
        read = tomllib.loads(f"v = {value}")
    except (ValueError, RecursionError):
        return key, value
    return key, read["v"] if len(read) == 1 else value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


def device_of(name: str) -> str:
    """The device, checked; ``auto`` takes CUDA when there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (name.startswith("cuda") and torch.cuda.is_available()):
        available = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UsageError(f"device {name!r} is not available here; available: {available}")
    return name
