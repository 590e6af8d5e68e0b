"""Restoring the process state that a model may change while it runs, so that one model cannot affect the scores of the next."""

from __future__ import annotations

import builtins
import decimal
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

Part = tuple[Callable[[], Any], Callable[[Any], Any]]
"""Functions to read a part of the state, and to restore a value read before."""


def _attribute(owner: Any, name: str) -> Part:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _list(items: list) -> Part:
    return lambda: list(items), lambda before: items.__setitem__(slice(None), before)


def _table(table: Any) -> Part:
    def put(before: dict) -> None:
        table.clear()
        table.update(before)

    return lambda: dict(table), put


def _pop(pop: Callable[[], Any], count: Callable[[], int], depth: int) -> None:
    while count() > depth:
        pop()


def _flushes_denormals() -> bool:
    """Whether the processor flushes denormals to zero; tested with Python floats, which use the same unit."""
    return float("5e-324") * 1.0 == 0.0


@cache
def numerics() -> Sequence[Part]:
    """Settings that change the result of a computation in torch or NumPy, or its precision and order."""
    import numpy as np
    import torch
    from torch.nn.modules import module
    from torch.overrides import _pop_mode as _pop_function_mode
    from torch.utils._python_dispatch import _pop_mode as _pop_dispatch_mode

    backends, cpu = torch.backends, torch.device("cpu")

    def autocast(kind: str) -> Sequence[Part]:
        return (
            (lambda: torch.is_autocast_enabled(kind), lambda on: torch.set_autocast_enabled(kind, on)),
            (lambda: torch.get_autocast_dtype(kind), lambda dtype: torch.set_autocast_dtype(kind, dtype)),
        )

    def nesting() -> int:
        torch.autocast_increment_nesting()
        return torch.autocast_decrement_nesting()

    def leave(depth: int) -> None:
        """Leave autocast contexts deeper than ``depth``; cast weights are cached until the outermost ends, and would reach the next model."""
        while nesting() > depth:
            torch.autocast_decrement_nesting()
        if depth == 0:
            torch.clear_autocast_cache()

    def deterministic() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    return (
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, lambda device: torch.set_default_device(None if device == cpu else device)),
        # Modes that were entered and never left intercept every operator after them.
        (
            torch._C._len_torch_function_stack,
            lambda depth: _pop(_pop_function_mode, torch._C._len_torch_function_stack, depth),
        ),
        (
            torch._C._len_torch_dispatch_stack,
            lambda depth: _pop(_pop_dispatch_mode, torch._C._len_torch_dispatch_stack, depth),
        ),
        (torch.is_inference_mode_enabled, lambda on: torch.inference_mode(on).__enter__()),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (deterministic, lambda flags: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        *(_attribute(backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
        _attribute(backends.mkldnn, "enabled"),
        (backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled),
        *autocast("cpu"),
        *autocast("cuda"),
        (nesting, leave),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (_flushes_denormals, torch.set_flush_denormal),
        *(_table(getattr(module, f"_global_{name}_hooks")) for name in ("forward", "forward_pre", "backward")),
        (np.geterr, lambda errors: np.seterr(**errors)),
    )


def _filters() -> Part:
    def put(before: list) -> None:
        warnings.filters[:] = before  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]

    return lambda: list(warnings.filters), put


def _handler(number: int) -> Part:
    return lambda: signal.getsignal(number), lambda before: signal.signal(number, before)


def _names() -> Part:
    """The names that Python resolves last: a shadowed ``print`` or ``sum`` reaches every module. ``_`` is that of the interactive shell."""
    return lambda: {k: v for k, v in vars(builtins).items() if k != "_"}, builtins.__dict__.update


def _plotting() -> Sequence[Part]:
    """The settings of matplotlib, when it has been imported."""
    plots = sys.modules.get("matplotlib")
    return (_table(plots.rcParams),) if plots is not None and hasattr(plots, "rcParams") else ()


def _accelerators() -> Sequence[Part]:
    """The generators of CUDA devices and whether convolutions may use TF32, once such a device is in use."""
    import torch

    if not torch.cuda.is_initialized():
        return ()
    precision = _attribute(torch.backends.cudnn.conv, "fp32_precision")  # type: ignore[attr-defined]
    return ((torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all), precision)


def surroundings() -> Sequence[Part]:
    """All other process state that outlives a call: variables, streams, generators, limits, handlers."""
    import numpy as np

    main = threading.current_thread() is threading.main_thread()
    return (
        (random.getstate, random.setstate),
        _table(os.environ),
        _list(sys.path),
        _list(sys.argv),
        _names(),
        *(_attribute(sys, name) for name in ("stdin", "stdout", "stderr", "excepthook")),
        *(_handler(number) for number in (signal.SIGINT, signal.SIGTERM) if main),
        _filters(),
        (sys.getrecursionlimit, sys.setrecursionlimit),
        (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        (np.get_printoptions, lambda options: np.set_printoptions(**options)),
        (lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name)),
        (lambda: decimal.getcontext().copy(), lambda context: decimal.setcontext(context)),
        (lambda: logging.root.manager.disable, logging.disable),
        (lambda: logging.root.level, logging.root.setLevel),
        (sys.gettrace, sys.settrace),
        (sys.getprofile, sys.setprofile),
        *_plotting(),
        *_accelerators(),
    )


@contextmanager
def _kept(parts: Sequence[Part]) -> Iterator[None]:
    before = [get() for get, _ in parts]
    try:
        yield
    finally:
        for (get, put), value in zip(parts, before, strict=True):
            # One part that cannot be put back must not keep the others from it, nor hide what was raised.
            with suppress(Exception):
                now = get()
                # Some values cannot be compared (arrays, NaN): put back what may have changed.
                if now is not value and not (type(now) is type(value) and _same(now, value)):
                    put(value)


def _same(now: Any, before: Any) -> bool:
    with suppress(Exception):
        return bool(now == before)
    return False


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Context that restores the states of the global generators of torch (CPU) and NumPy."""
    import numpy as np
    import torch

    drawn, legacy = torch.default_generator.get_state(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.default_generator.set_state(drawn)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _folder_kept() -> Iterator[None]:
    # A descriptor still leads back when the folder's name does not.
    folder = os.open(".", os.O_RDONLY)
    try:
        yield
    finally:
        os.chdir(folder)
        os.close(folder)


@contextmanager
def steady() -> Iterator[None]:
    """Context that restores the settings of torch and NumPy: dtype, device, threads, gradients, precision, hooks on all modules.

    For every single call of a field with whose values other code goes on; costs some twenty microseconds.
    """
    with _kept(numerics()):
        yield


@contextmanager
def isolated() -> Iterator[None]:
    """Context that restores the process state, so that the settings of one model cannot affect the scores of the next.

    Restored are the settings of :func:`steady`, the global generators of torch, NumPy and Python, the working directory, environment
    variables, ``sys.path`` and ``sys.argv``, standard streams, built-in names, signal handlers, limits, locale, print options, logging
    levels and the filters of warnings. Functions of other modules that were replaced stay replaced.
    """
    with _generators_kept(), _folder_kept(), _kept(surroundings()), _kept(numerics()):
        yield
