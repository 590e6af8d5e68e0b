"""A device that is not the CPU, for machines without one: tensors that say they are elsewhere, hold real numbers, and never mix.

Placement is what may go wrong; the numbers stay those of the CPU to the bit, so that a computation elsewhere can be compared with one here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
"""The name of the device: one that torch knows without hardware, and on which nothing else could compute."""
aten = torch.ops.aten


class Far(Tensor):
    """A tensor elsewhere, with its numbers."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls, near.shape, near.stride(), near.storage_offset(), dtype=near.dtype, device=ELSEWHERE
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.near})"


def carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator on the numbers; raises RuntimeError when it mixes devices, as a real one would."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    far = [x for x in tensors if isinstance(x, Far)]
    here = [x for x in tensors if not isinstance(x, Far) and x.ndim > 0]
    moved = func in (aten._to_copy.default, aten.copy_.default)
    if far and here and not moved:
        raise RuntimeError(f"{func}: tensors on two devices, {ELSEWHERE} and cpu")
    device = kwargs.get("device")
    inner = tree_map(lambda x: x.near if isinstance(x, Far) else x, (args, kwargs))
    if device is not None:
        inner[1]["device"] = torch.device("cpu")
    found = func(*inner[0], **inner[1])
    stays = torch.device(device) == ELSEWHERE if device is not None else bool(far)
    if func._schema.is_mutable and isinstance(args[0], Far) and found is inner[0][0]:
        return args[0]
    if not stays:
        return found
    return tree_map(lambda x: Far(x) if isinstance(x, Tensor) and not isinstance(x, Far) else x, found)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(func, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """Between plain numbers and a device: ``torch.tensor`` and ``tolist`` pass no dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") not in (None, "cpu"):
            here = func(*args, **{**kwargs, "device": "cpu"})
            return here.to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], Far):
            return args[0].near.tolist()
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Inside, tensors can be made and moved elsewhere."""
    with _Operators(), _Numbers():
        yield


def move(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its parameters and buffers elsewhere, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(Far(parameter.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Far(buffer)
    return module


def without_driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """For fake CUDA tensors: what asks the driver of a GPU is left out and written down, ``pin`` or ``wait``, in the list that comes back."""
    calls: list[str] = []

    def pin(x: Tensor) -> Tensor:
        calls.append("pin")
        return x

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: calls.append("wait"))
    return calls
