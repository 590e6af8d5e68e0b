"""Checks of TOML tables against type hints: allowed keys, and whether a value fits."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from fmbench.registry import nearest
from fmbench.storage.readers import one_line

SHOWN = 120
"""Characters of a wrong value that a message shows."""


def matches(value: Any, hint: Any) -> bool:
    """Whether a TOML value fits a type hint (int counts as float, arrays as tuples and lists; bool never counts as a number)."""
    if hint in (Any, object, inspect.Parameter.empty):
        return True
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return matches(value, options[0])
    if origin in (types.UnionType, typing.Union):
        return any(matches(value, option) for option in options)
    if origin is typing.Literal:
        return any(value == option and type(value) is type(option) for option in options)
    if hint is None or hint is type(None):
        return value is None
    if origin is not None or hint in (tuple, list):
        return _holds(value, hint if origin is None else origin, options)
    if isinstance(value, bool) and isinstance(hint, type):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return _instance(value, hint)


def _instance(value: Any, kind: Any) -> bool:
    """``isinstance``, and False for hints that Python cannot test (a type variable, a protocol)."""
    try:
        return isinstance(value, kind) and not (isinstance(value, bool) and issubclass(kind, numbers.Number))
    except TypeError:
        return False


def _holds(value: Any, kind: Any, options: tuple[Any, ...]) -> bool:
    """Whether a table or an array fits ``kind[options]``, its elements included."""
    if isinstance(value, Mapping):
        keys, values = options if len(options) == 2 else (Any, Any)
        fits = isinstance(kind, type) and issubclass(kind, Mapping)
        return fits and all(matches(k, keys) and matches(v, values) for k, v in value.items())
    if not isinstance(value, (list, tuple)):
        return not options and _instance(value, kind)
    if kind is tuple:
        if not options or options[-1] is Ellipsis:
            return all(matches(v, options[0]) for v in value) if options else True
        return len(value) == len(options) and all(matches(v, o) for v, o in zip(value, options, strict=True))
    fits = isinstance(kind, type) and issubclass(list, kind)
    return fits and all(matches(v, options[0]) for v in value) if options else fits


def shown(value: Any) -> str:
    """A wrong value for a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole numbers of thousands of digits
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "a value too long to show"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def check_table(table: Mapping[str, Any], allowed: Mapping[str, Any], where: str) -> None:
    """Raise ValueError naming the file and table, the offending key, and what is allowed."""
    for key, value in table.items():
        if key not in allowed:
            words = nearest("key", key, allowed) if len(key) <= SHOWN else f"unknown key {shown(key)}"
            raise ValueError(f"{where}: {words}; allowed: {', '.join(sorted(allowed))}")
        if not matches(value, allowed[key]):
            hint = allowed[key]
            expected = getattr(hint, "__name__", None) if typing.get_origin(hint) is None else str(hint)
            raise ValueError(f"{where}: {key} must be {expected or hint}, got {shown(value)} ({type(value).__name__})")


def _numbers(content: Any) -> Iterator[int | float]:
    """Every number in nested tables and arrays."""
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        for value in content:
            yield from _numbers(value)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield content


def require_finite(table: Mapping[str, Any], where: str) -> None:
    """Raise ValueError naming the first key whose numbers are NaN, infinite or beyond 64 bits, all of which TOML allows."""
    for key, value in table.items():
        for number in _numbers(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{where}: {key} must be finite, got {number}")
            if isinstance(number, int) and not -(2**63) <= number < 2**63:
                raise ValueError(f"{where}: {key} must fit into 64 bits, got {shown(number)}")


def parameters_of(kind: type, skip: tuple[str, ...]) -> dict[str, Any]:
    """Keyword parameters of a class with their type hints; those of its parents where it passes ``**kwargs`` on.

    Raises ValueError in one line for a hint that cannot be resolved.
    """
    found: dict[str, Any] = {}
    for parent in kind.__mro__:
        if "__init__" not in vars(parent) or parent is object:
            continue
        passes_on = False
        for name, parameter in _signature(parent, kind).items():
            passes_on = passes_on or parameter.kind is parameter.VAR_KEYWORD
            by_name = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            if by_name and name not in skip and name not in found:
                found[name] = _hint(parent, name, parameter.annotation)
        if not passes_on:
            break
    return found


def required_of(kind: type, skip: tuple[str, ...]) -> list[str]:
    """Names of the keyword parameters of a class that have no default."""
    return [
        name
        for name, parameter in _signature(kind, kind).items()
        if name not in skip
        and parameter.default is parameter.empty
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def _signature(parent: type, kind: type) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(parent.__init__).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"the parameters of {kind.__name__} cannot be read: {one_line(error)}") from None


def _hint(kind: type, name: str, annotation: Any) -> Any:
    """The hint of one parameter; those of others (a network imported for type checkers only) need not resolve."""
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    scope = getattr(kind.__init__, "__globals__", None) or vars(sys.modules[kind.__module__])
    try:
        return typing.get_type_hints(holder, globalns=scope, localns={kind.__name__: kind})[name]
    except Exception as error:  # a hint is code: it may raise anything
        raise ValueError(
            f"the hint {annotation!r} of {name} in {kind.__name__} cannot be resolved: {one_line(error)}; import what it names"
        ) from None


def from_table(kind: type, table: Any, where: str) -> Any:
    """A dataclass from a parsed table. Raises ValueError naming file, key and what is allowed, and the keys that are missing."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: expected a table, got {shown(table)}")
    hints = typing.get_type_hints(kind)
    check_table(table, hints, where)
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    return kind(**table)
