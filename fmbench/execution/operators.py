"""Interception of every torch operator, without the imports that torch's compiler would need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):
    """A mode whose ``__torch_dispatch__`` is called as it is.

    By default torch keeps its compiler out of such a function, and imports it for that: 1.6 seconds of a process that compiles nothing.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextmanager
def uncompiled() -> Iterator[None]:
    """Context in which functions compiled by ``torch.compile`` run operator by operator; does nothing when its modules are not loaded."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
