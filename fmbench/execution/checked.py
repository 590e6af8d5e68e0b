"""Checks of what foreign code returns: a velocity or a sample is a real tensor of exactly the shape and device of its argument.

Anything else would broadcast silently and give wrong measurements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fmbench.execution.foreign import foreign, steady
from fmbench.shapes import Points, Times, Velocity


def _kind(found: Any) -> str | None:
    """The reason why a value is no dense real floating tensor; None for one that is."""
    if not isinstance(found, Tensor):
        return f"is of type {type(found).__name__}; return a tensor"
    if found.layout != torch.strided or found.is_nested:
        return f"has layout {'nested' if found.is_nested else str(found.layout).removeprefix('torch.')}; return a dense tensor"
    if not found.dtype.is_floating_point:
        return f"has dtype {str(found.dtype).removeprefix('torch.')}; return real floating-point numbers"
    return None


def checked_points(found: Any, x: Points, what: str = "velocity") -> Points:
    """``found`` checked as points like ``x``: a dense real floating tensor of exactly its shape on its device.

    Another floating precision is converted to that of ``x``; the result is detached where gradients are off.
    Raises ValueError in one line, which calls it ``what``, for anything else.
    """
    if (wrong := _kind(found)) is not None:
        raise ValueError(f"{what} {wrong}")
    if found.shape != x.shape:
        raise ValueError(f"{what} has shape {tuple(found.shape)}, x {tuple(x.shape)}")
    if found.device != x.device:
        raise ValueError(f"{what} is on device {found.device}, x on {x.device}")
    if found.requires_grad and not torch.is_grad_enabled():
        found = found.detach()
    return found if found.dtype == x.dtype else found.to(x.dtype)


def _version(tensor: Tensor) -> int:
    # Inference tensors keep no count of the changes made to them.
    return 0 if tensor.is_inference() else tensor._version


def checked_field(velocity: Velocity) -> Velocity:
    """The same field; its values pass :func:`checked_points`, and ValueError is raised when it changes ``x`` or ``t`` in place."""

    def checked(x: Points, t: Times) -> Points:
        before, gradients = (_version(x), _version(t)), torch.is_grad_enabled()
        found = velocity(x, t)
        if torch.is_grad_enabled() != gradients:
            torch.set_grad_enabled(gradients)
        found = checked_points(found, x)
        if (_version(x), _version(t)) != before:
            raise ValueError("velocity changes x or t in place; work on a copy")
        return found

    return checked


def guarded_field(velocity: Velocity, derivatives: bool = True) -> Velocity:
    """The field, checked: each call raises one line on failure, and changes that it makes to the process are undone.

    Raises ForeignError, also when it is differentiated and ``derivatives`` says that it cannot be.
    """
    field = checked_field(velocity)

    def guarded(x: Points, t: Times) -> Points:
        with foreign("velocity"), steady():
            wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)  # type: ignore[attr-defined]
            if not derivatives and (wrapped or (x.requires_grad and torch.is_grad_enabled())):
                raise ValueError("it switches gradients off inside, so its derivatives come out as zero")
            return field(x, t)

    return guarded
