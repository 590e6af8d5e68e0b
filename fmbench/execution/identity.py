"""Which code a model runs: a hash of the syntax trees of everything that is neither fmbench's nor an installed package's.

fmbench's own code is identified by the versions it declares, packages by theirs. What is left is the user's: the modules their functions and
classes come from, and what functions reach through closures, defaults and globals.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
PLAIN = (type(None), bool, int, float, complex, str, bytes)


class Unidentified(ValueError):
    """A value that has no identity that could be reproduced in another run."""


@functools.cache
def _foreign_roots() -> tuple[Path, ...]:
    """Folders whose code is not the user's: the standard library, installed packages, fmbench itself."""
    paths = sysconfig.get_paths()
    named = [paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"], site.getusersitepackages()]
    return (PACKAGE, *{Path(p).resolve() for p in (*named, *site.getsitepackages())})


def is_users(module: str | None) -> bool:
    """Whether a module of this name is user code: neither fmbench, nor installed, nor built in."""
    loaded = sys.modules.get(module or "")
    if loaded is None or module in sys.builtin_module_names:
        return loaded is None and module is not None and not _known(module)
    file = getattr(loaded, "__file__", None)
    if file is None:
        return module == "__main__"
    return not any(Path(file).resolve().is_relative_to(root) for root in _foreign_roots())


def _known(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names or module.startswith("fmbench")


def tree_hash(source: str | bytes) -> str:
    """SHA-256 of the syntax tree of Python source: comments, layout and docstrings change nothing. Raises SyntaxError."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


class _Digest:
    """Collects everything that identifies some objects; each object is looked at once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: set[int] = set()
        self.alive: list[Any] = []
        self.modules: dict[str, str] = {}

    def say(self, *words: Any) -> None:
        self.hash.update(repr(words).encode())

    def module(self, name: str) -> None:
        """The syntax tree of a module of the user's, and of the user's modules that it holds."""
        if name in self.modules or not is_users(name):
            return
        loaded = sys.modules.get(name)
        file = getattr(loaded, "__file__", None)
        if loaded is None or file is None or not Path(file).is_file():
            raise Unidentified(f"module {name} has no source")
        self.modules[name] = tree_hash(Path(file).read_text())
        self.held(loaded)

    def held(self, loaded: types.ModuleType) -> None:
        """The user's modules that a module holds, or took something from."""
        for value in list(vars(loaded).values()):
            inner = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            if isinstance(inner, str) and inner != loaded.__name__ and inner in sys.modules:
                self.module(inner)

    def value(self, value: Any) -> None:
        """Any value that a function may reach."""
        if isinstance(value, PLAIN):
            self.say(type(value).__name__, value)
            return
        if id(value) in self.seen:
            self.say("again")
            return
        self.seen.add(id(value))
        self.alive.append(value)
        if isinstance(value, types.ModuleType):
            self.say("module", value.__name__)
            self.module(value.__name__)
        elif isinstance(value, type):
            self.kind(value)
        elif isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, types.MethodType):
            self.value(value.__func__)
            self.value(value.__self__)
        elif isinstance(value, functools.partial):
            self.value((value.func, value.args, value.keywords))
        elif isinstance(value, tuple | list):
            self.say(type(value).__name__, len(value))
            for part in value:
                self.value(part)
        elif isinstance(value, dict):
            self.say("dict", len(value))
            for key, part in value.items():
                self.value(key)
                self.value(part)
        elif isinstance(value, set | frozenset):
            self.say("set", sorted(map(repr, value)))
        else:
            self.object(value)

    def kind(self, kind: type) -> None:
        """A class: by name where it is installed, by the tree of its module where it is the user's, with its bases."""
        self.say("class", kind.__module__, kind.__qualname__)
        for base in kind.__mro__:
            if base.__module__ == "__main__" and getattr(sys.modules["__main__"], "__file__", None) is None:
                self.members(base)
            else:
                self.module(base.__module__)

    def members(self, kind: type) -> None:
        """The functions of a class typed at a prompt, whose source is nowhere."""
        for name, member in sorted(vars(kind).items()):
            function = getattr(member, "__func__", member)
            if isinstance(function, types.FunctionType):
                self.say(name)
                self.value(function)

    def function(self, function: types.FunctionType) -> None:
        """A function: its own code with what it closes over, defaults to and reads from its module."""
        if not is_users(function.__module__):
            self.say("function", function.__module__, function.__qualname__)
            return
        self.code(function.__code__)
        self.value((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self.value(cell.cell_contents)
            except ValueError:
                self.say("empty cell")
        for name in _names(function.__code__):
            if name in function.__globals__:
                self.say(name)
                self.value(function.__globals__[name])

    def code(self, code: types.CodeType) -> None:
        """The code of a function, without line numbers."""
        self.say(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.say(constant)

    def object(self, value: Any) -> None:
        """An instance: arrays by their bytes, everything else by its class and the state that a copy would have."""
        import numpy as np
        import torch

        if isinstance(value, torch.Tensor):
            self.say("tensor", str(value.dtype), tuple(value.shape))
            self.hash.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
            self.say("array", value.dtype.str, value.shape, value.tobytes())
        elif isinstance(value, torch.dtype | torch.device | np.dtype):
            self.say(str(value))
        elif isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType):
            self.say("built in", value.__qualname__)
        else:
            self.kind(type(value))
            made = value.__reduce_ex__(4)
            if isinstance(made, str):
                self.say(made)
            else:
                self.value(tuple(list(part) if isinstance(part, Iterator) else part for part in made))


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function and its nested functions read."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def code_identity(*objects: Any) -> str | None:
    """SHA-256 that changes when the user's code behind functions, classes or instances changes, and not with comments or layout.

    It covers the syntax tree of every module of the user's that they come from or reach, closures, defaults and globals of functions, and
    the attributes of instances. None when it cannot be determined (generators, open files, missing source): such a model never counts as
    the same.
    """
    digest = _Digest()
    try:
        for thing in objects:
            digest.value(thing)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                digest.module(thing.__module__)
    except Exception:
        # Copying may run the user's own code, which may raise anything; what cannot be copied cannot be found again.
        return None
    for name, found in sorted(digest.modules.items()):
        digest.say(name, found)
    return digest.hash.hexdigest()


def modules_identity(modules: Iterable[types.ModuleType]) -> str | None:
    """SHA-256 of the user's modules that these hold or took something from, themselves excluded; None when the source of one is gone."""
    given = list(modules)
    digest = _Digest()
    digest.modules = {module.__name__: "" for module in given}
    try:
        for module in given:
            digest.held(module)
    except Exception:
        return None
    for name, found in sorted(digest.modules.items()):
        if found:
            digest.say(name, found)
    return digest.hash.hexdigest()
