"""Code shared by the commands: exit codes, argument types, progress."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

DONE, FAILED, USAGE = 0, 1, 2
Add = Callable[..., argparse.ArgumentParser]
"""Adds a subcommand: (name, call, text) -> its parser."""


class UsageError(ValueError):
    """The request itself is wrong: exit code 2."""


def print_json(content: Any) -> None:
    """Print plain data as JSON."""
    print(json.dumps(content, indent=2))


def report_problems(problems: Iterable[str]) -> None:
    """One line each on standard error, where they do not disturb what ``--json`` prints."""
    for line in problems:
        print(f"fmbench: {line}", file=sys.stderr)


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


def whole(least: int, words: Sequence[str] = ()) -> Callable[[str], Any]:
    """An argument type: a whole number of at least ``least``, or one of some ``words``."""

    def number(text: str) -> int | str:
        if text in words:
            return text
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            allowed = "".join(f", or {word}" for word in words)
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}{allowed}, got {text!r}")
        return value

    return number


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return whole(1)(text)


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
    """See :func:`fmbench.evaluation.device.resolve_device`, which this command line and the API share."""
    from fmbench.evaluation.device import resolve_device

    return resolve_device(name)


def add_models(p: argparse.ArgumentParser) -> None:
    """Add the arguments that say what to evaluate: a benchmark, and models on it."""
    p.add_argument("benchmark", help="a benchmark name, or a protocol file of your own")
    p.add_argument(
        "-m",
        "--model",
        nargs="*",
        action="extend",
        help="task/entry, folder, hf:owner/name@revision or file.py:Class; every bundled entry when left out",
    )
