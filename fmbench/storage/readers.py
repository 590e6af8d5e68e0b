"""Reading of untrusted text files: limited in size before reading, strict TOML and JSON, errors in one line."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

MEBIBYTE = 1 << 20
LONGEST_LINE = 400
LONGEST = 100
"""Characters of a name from a file that a message shows."""
DEEPEST = 32
"""Levels of nesting: what fmbench writes has fewer than ten."""


def _printable(text: str, longest: int) -> str:
    """Text without line breaks and control characters, which could rewrite a terminal, and cut where it is long."""
    plain = text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return plain if len(plain) <= longest else f"{plain[:longest]}..."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its type where there is none."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return _printable(line, LONGEST_LINE)


def one_line(error: BaseException) -> str:
    """An error of foreign code as one line: its type and the first line of its message."""
    said = first_line(error)
    return said if said == type(error).__name__ else f"{type(error).__name__}: {said}"


def shown(name: str) -> str:
    """A name from a file as a message may show it."""
    return _printable(name, LONGEST)


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises FileNotFoundError, or ValueError in one line for a larger file, one that is no regular file, or one that cannot be read; ``what``
    names its kind.
    """
    try:
        if not path.exists():
            raise FileNotFoundError(f"no {what} at {path}")
        if not path.is_file():
            raise ValueError(f"{path} is no regular file, so no {what}")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit / MEBIBYTE:g} MiB, the most that a {what} may have")
    return data


def _text(path: Path, limit: int, what: str) -> str:
    try:
        return read_bytes(path, limit, what).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no {what}: it is not UTF-8 text (byte {error.start})") from None


def _require_shallow(content: Any, path: Path, depth: int = DEEPEST) -> None:
    if depth < 0:
        raise ValueError(f"{path} is nested more than {DEEPEST} levels deep")
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        if isinstance(value, (dict, list)):
            _require_shallow(value, path, depth - 1)


def read_toml(path: Path, what: str, limit: int = MEBIBYTE) -> dict[str, Any]:
    """The content of a TOML file. Raises FileNotFoundError, or ValueError in one line that names the file."""
    text = _text(path, limit, what)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise ValueError(f"{path}: not valid TOML: {first_line(error)}") from None
    _require_shallow(content, path)
    return content


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(f"{text:.40}")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The table of a JSON parser's pairs. Raises ValueError for a key that stands twice."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key!r:.{LONGEST}} stands twice in one table")
        table[key] = value
    return table


def read_json(path: Path, what: str, limit: int = 4 * MEBIBYTE) -> Any:
    """The content of a JSON file; NaN, infinity and keys that stand twice in a table are refused.

    Raises FileNotFoundError, or ValueError in one line that names the file.
    """
    text = _text(path, limit, what)
    try:
        content = json.loads(text, object_pairs_hook=unique_keys, parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no {what}: {first_line(error)}") from None
    _require_shallow(content, path)
    return content
