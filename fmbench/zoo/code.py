"""Method files: ``path/to/file.py:Class`` executed as ``python file.py`` would, with the modules beside it, and what identifies them.

The folder of the file comes first on ``sys.path`` while the file is executed and while its class builds a network. Modules found there belong
to that file alone: afterwards ``sys.path`` and ``sys.modules`` are as they were, so that two folders may use the same names.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from fmbench.execution.foreign import ForeignError, foreign, isolated
from fmbench.execution.identity import code_identity, is_users, modules_identity, tree_hash
from fmbench.methods.base import Method
from fmbench.records import versions
from fmbench.registry import NETS, file_class, trainable
from fmbench.storage.files import fingerprint, sha256
from fmbench.storage.readers import MEBIBYTE, read_bytes

LARGEST = 4 * MEBIBYTE
"""Largest size of a file of code, in bytes."""
NO_PLUGINS = ("fmbench", "torch", "builtins", "abc", "typing")
"""Packages whose classes come with every method: they are identified by declared versions, or recorded with the environment."""


@dataclass
class Source:
    """A method file that has been executed: its module, the modules beside it, the hash of their content and of their syntax trees."""

    file: Path
    digest: str
    module: ModuleType
    trees: dict[str, str]
    neighbours: dict[str, ModuleType] = field(default_factory=dict)


_EXECUTED: dict[Path, Source] = {}
_SOURCES: WeakKeyDictionary[type, Source] = WeakKeyDictionary()


def rule_parameters(spec: str, task: Any) -> dict[str, Any]:
    """Parameters of a method that depend on the task by its own rule; none for a method without one. Raises what :func:`method_class` raises."""
    kind = method_class(spec)
    rule = getattr(kind, "parameters_for", None)
    with foreign(f"the parameters of {spec} for {task.name}"):
        return {} if rule is None else dict(rule(task))


def method_class(spec: str) -> type[Method]:
    """The class of a registered name or of ``path/to/file.py:Class``; the file is executed, so the user must have named it.

    Raises UnknownName, FileNotFoundError, or ValueError: the file fails, with its line, or has no such Method.
    """
    parts = file_class(spec)
    if parts is None:
        return trainable(spec)
    path, name = parts
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file {path} for the method {spec}")
    source = _execute(file.resolve())
    kind = getattr(source.module, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Method)):
        found = [
            n
            for n, k in vars(source.module).items()
            if inspect.isclass(k) and issubclass(k, Method) and k.__module__ == source.module.__name__
        ]
        raise ValueError(
            f"{path} has no class {name} derived from fmbench.methods.Method; it has: {', '.join(found) or 'none'}"
        )
    if kind.__module__ == source.module.__name__ or kind.__module__ in source.neighbours:
        _SOURCES[kind] = source
    return kind


def code_hash(kind: type, net: str | None = None) -> str | None:
    """Hash of the code of a method class with its net: declared versions of fmbench's own, syntax trees of the user's code.

    Comments, layout and docstrings change nothing, nor does any edit of fmbench's files that raises no version. The modules that a method
    file imports from beside it count, and those of the user's elsewhere. None when it cannot be told.
    """
    # One of fmbench's own has a version that covers what it inherits; a class of the user's is that and the versions of its bases.
    own = versions.of_classes([kind])
    said: list[Any] = own or versions.of_classes(kind.__mro__)
    if net:
        said.append(versions.declared(NETS, net))
    for base in kind.__mro__:
        if base in _SOURCES or is_users(base.__module__) or base.__module__.partition(".")[0] in NO_PLUGINS:
            continue
        said.append([base.__module__, base.__qualname__, versions.package_version(base.__module__)])
    theirs: list[Any] = []
    source = _SOURCES.get(kind)
    if source is not None:
        theirs = [kind.__qualname__, source.trees, modules_identity([source.module, *source.neighbours.values()])]
    elif is_users(kind.__module__):
        theirs = [code_identity(kind)]
    return None if None in theirs else fingerprint([*said, *theirs])


@contextmanager
def beside(kind: type) -> Iterator[None]:
    """Context in which the class finds the modules beside its file, if it came from one."""
    source = _SOURCES.get(kind)
    if source is None:
        yield
        return
    with _first(source.file.parent, source.neighbours):
        yield


def _execute(file: Path) -> Source:
    """The executed file; it is executed again when it, or what it imports from beside it, has changed.

    Its module stays in ``sys.modules``, as ``inspect`` and dataclasses need.
    """
    content = _read(file)
    digest, trees = _digest(file, content), _trees(file, content)
    known = _EXECUTED.get(file)
    if known is not None and known.digest == digest:
        return known
    name = f"fmbench_user_{file.stem}_{sha256(f'{file} {digest}'.encode())[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    source = Source(file, digest, importlib.util.module_from_spec(spec), trees)
    sys.modules[name] = source.module
    try:
        with isolated(), _first(file.parent, source.neighbours), foreign():
            spec.loader.exec_module(source.module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ForeignError):
            raise ForeignError(f"{_place(error.__cause__, file)}: {error}") from error.__cause__
        raise
    _EXECUTED[file] = source
    return source


def _place(error: BaseException | None, file: Path) -> str:
    """The line of a method file, or of one beside it, at which an error left it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(file.parent)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else str(file)


@contextmanager
def _first(folder: Path, neighbours: dict[str, ModuleType]) -> Iterator[None]:
    """Context in which modules of ``folder`` are found first; those imported are added to ``neighbours`` and removed from ``sys.modules``."""
    children = set(os.listdir(folder))
    theirs = {n: m for n, m in sys.modules.items() if _gives_way(n.partition(".")[0], children)}
    path, writes = list(sys.path), sys.dont_write_bytecode
    for name in theirs:
        del sys.modules[name]
    before = set(sys.modules)
    sys.modules.update(neighbours)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, writes
        for name in [
            n for n in sys.modules if n not in before and _lies_in(sys.modules.get(n.partition(".")[0]), folder)
        ]:
            neighbours[name] = sys.modules[name]
        for name in neighbours:
            sys.modules.pop(name, None)
        sys.modules.update(theirs)


def _lies_in(module: ModuleType | None, folder: Path) -> bool:
    """Whether a top-level module or package is an immediate child of ``folder``."""
    spec = getattr(module, "__spec__", None)
    if module is None or spec is None or module.__name__.startswith("fmbench_user_"):
        return False
    places = list(spec.submodule_search_locations or []) or [spec.origin or ""]
    return any(Path(place).parent == folder for place in places)


def _gives_way(top: str, children: set[str]) -> bool:
    """Whether a loaded module may be shadowed by one of a folder: never one of Python, of installed packages, or of fmbench."""
    if f"{top}.py" not in children and top not in children:
        return False
    if top in sys.stdlib_module_names or top == "fmbench":
        return False
    origin = getattr(getattr(sys.modules.get(top), "__spec__", None), "origin", None) or ""
    return not {"site-packages", "dist-packages"} & set(Path(origin).parts)


def code_files(file: Path) -> list[Path]:
    """A file of code and the files that it imports from its own folder, directly or not; nothing is executed."""
    return list(_read(file))


def _read(file: Path) -> dict[Path, bytes]:
    """The content of a file, and of those that it imports from its own folder, directly or not."""
    content = {file: read_bytes(file, LARGEST, "file of code")}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        for found in _imports(content[current], current, file.parent):
            if found not in content:
                content[found] = read_bytes(found, LARGEST, "file of code")
                waiting.append(found)
    return content


def _digest(file: Path, content: dict[Path, bytes]) -> str:
    """SHA-256 of all bytes: a file is executed again when any of them changes."""
    hashes = {str(path.relative_to(file.parent)): sha256(data) for path, data in content.items()}
    own = hashes.pop(file.name)
    return fingerprint([own, hashes]) if hashes else own


def _trees(file: Path, content: dict[Path, bytes]) -> dict[str, str]:
    """Hashes of the syntax trees of the files by their place, of the bytes of one that cannot be parsed; the file itself is ``.``."""
    found = {}
    for path, data in content.items():
        place = "." if path == file else str(path.relative_to(file.parent))
        try:
            found[place] = tree_hash(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            found[place] = sha256(data)
    return found


def _imports(code: bytes, file: Path, folder: Path) -> list[Path]:
    """Files below ``folder`` that the code of ``file`` imports anywhere, in functions too; none where it cannot be parsed."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # executing it says so
    wanted: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [folder.joinpath(*alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder if not node.level else file.parents[min(node.level, len(file.parents)) - 1]
            module = base.joinpath(*node.module.split(".")) if node.module else base
            wanted += [module, *(module / alias.name for alias in node.names if alias.name != "*")]
    found = []
    for target in wanted:
        if not target.is_relative_to(folder):
            continue
        # Importing a.b executes a as well.
        chain = [target, *(p for p in target.parents if p != folder and p.is_relative_to(folder))]
        for part in chain:
            found += [p for p in (part.with_name(part.name + ".py"), part / "__init__.py") if p.is_file()]
    return found
