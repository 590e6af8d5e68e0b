"""Conversion of plain data to a type; the first error is reported in words with its place.

Types are :class:`msgspec.Struct` classes. What their ``__post_init__`` raises starts with the name of the field at fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from fmbench.storage.readers import DEEPEST, first_line

T = TypeVar("T")
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "null",
}
_HEX = "^[0-9a-f]{64}\\Z"
HASH = msgspec.Meta(pattern=_HEX)
"""Hexadecimal SHA-256."""
_ANY_KEY = "[...]"
_STEP = re.compile(r"\[\.\.\.\]|\[(\d+)\]|\.([^.\[\]]+)")


def shown(value: Any, length: int = 80) -> str:
    """A value in a message: its ``repr``, which is one line, cut to ``length`` characters."""
    # Only what can be seen is turned into text: the value may be megabytes.
    if isinstance(value, str):
        value = value[:length]
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    elif isinstance(value, Mapping):
        return f"a table of {len(value)}" if value else "{}"
    elif isinstance(value, (list, tuple)):
        value = list(value[:8])
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def step(key: str) -> str:
    """A key of a table as a part of a place: ``.key``, or quoted in brackets when it is no plain word."""
    return f".{key}" if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else f"[{shown(key, 60)}]"


def law(holds: bool, message: str | Callable[[], str]) -> None:
    """Raise ValueError with the message, which starts with the field at fault, unless a law holds.

    Laws of every number of a file take a function that makes the message: most of the time of reading one was spent on messages.
    """
    if not holds:
        raise ValueError(message if isinstance(message, str) else message())


def one_of(field: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError for a value that is not among those allowed."""
    law(value in allowed, lambda: f"{field} must be one of {', '.join(allowed)}, got {shown(value)}")


def plain(value: Any, place: str = "", depth: int = DEEPEST) -> Any:
    """The data as read back from JSON: dicts, lists, text, numbers, true, false, null.

    Raises ValueError in one line, the place first, for anything else: NaN, infinity, arrays, keys that are no text, deep nesting.
    """
    if depth < 0:
        raise ValueError(f"{place.lstrip('.')} is nested more than {DEEPEST} levels deep")
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{place.lstrip('.')} must be a finite number, got {value}")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{place.lstrip('.')} has the key {shown(key)}, which is no text")
        return {key: plain(item, place + step(key), depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{place}[{index}]", depth - 1) for index, item in enumerate(value)]
    raise ValueError(f"{place.lstrip('.')} must be plain data, got {type(value).__name__}")


def require(content: Any, kind: type[T]) -> T:
    """Plain data as a type. Raises ValueError in one line, the place first, when it is not of that type or breaks its constraints."""
    try:
        return msgspec.convert(content, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(str(error), content, kind)) from None


def _error(content: Any, kind: type) -> str | None:
    try:
        msgspec.convert(content, kind, strict=True)
    except msgspec.ValidationError as error:
        return str(error)
    return None


def _split(error: str) -> tuple[str, str]:
    """The message of an msgspec error and its path, such as ``$.rows[2].metrics[...]``."""
    message, found, path = error.rpartition(" - at `$")
    return (message, path.removesuffix("`")) if found else (error, "")


def _in_words(error: str, content: Any, kind: type) -> str:
    message, path = _split(error)
    place, value = "", content
    keys: list[str | int] = []
    for part in _STEP.finditer(path):
        if part[0] == _ANY_KEY:
            key: str | int = _failing_key(content, keys, value, kind, path)
        else:
            key = int(part[1]) if part[1] else part[2]
        place += f"[{key}]" if isinstance(key, int) else step(key)
        keys.append(key)
        value = value[key]
    return _sentence(message, place.lstrip("."), value)


def _failing_key(content: Any, keys: list[str | int], table: Mapping[str, Any], kind: type, path: str) -> str:
    """The first key of a table whose value gives the error at ``path``, found by bisection because msgspec does not report it."""

    def fails(kept: list[str]) -> bool:
        error = _error(_replaced(content, keys, {key: table[key] for key in kept}), kind)
        return error is not None and _split(error)[1] == path

    names = list(table)
    while len(names) > 1:
        middle = len(names) // 2
        names = names[:middle] if fails(names[:middle]) else names[middle:]
    return names[0]


def _replaced(content: Any, keys: list[str | int], table: Any) -> Any:
    """A copy of nested data with another value at a place; unchanged parts are shared."""
    if not keys:
        return table
    copy = content.copy()
    copy[keys[0]] = _replaced(content[keys[0]], keys[1:], table)
    return copy


def _sentence(message: str, place: str, value: Any) -> str:
    where = place or "the whole"
    if wanted := re.fullmatch(r"Expected (.*?)(?:, got .*)?", message, re.DOTALL):
        text = wanted[1].replace(f"`str` matching regex {_HEX!r}", "64 hexadecimal digits")
        text = re.sub(r"`([^`]*)`", lambda m: " or ".join(_WORDS.get(w, w) for w in m[1].split(" | ")), text)
        return f"{where} must be {text}, got {shown(value)}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", message, re.DOTALL):
        return f"{where} lacks {missing[1]}"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        return f"{where} has {shown(unknown[1])}, which is no field of it"
    if message == "Number out of range":
        return f"{where} must be a number that a double can hold, got {shown(value)}"
    text = first_line(ValueError(message))
    return f"{place}.{text}" if place else text
