"""Models that somebody else made and trained: a velocity field of any library as a model of this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fmbench.methods.base import VelocityMethod
from fmbench.registry import TASKS
from fmbench.shapes import Labels, Points, Times
from fmbench.storage.files import sha256
from fmbench.zoo.model import Model


class _Wrapped(VelocityMethod):
    """A foreign velocity field."""

    def loss(self, batch: Any, generator: torch.Generator) -> Tensor:
        raise ValueError("a wrapped module is already trained")


class _Adapter(nn.Module):
    """Calls a foreign module with its own signature, as a module so that its evaluations are counted."""

    def __init__(self, module: nn.Module, call: Callable[[nn.Module, Points, Times], Points]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Points, t: Times, labels: Labels | None = None) -> Points:
        return self.call(self.module, x, t)


def wrap(
    module: nn.Module,
    task: str,
    name: str,
    call: Callable[[nn.Module, Points, Times], Points] = lambda module, x, t: module(x, t),
) -> Model:
    """Make a model of any velocity field: ``call(module, x, t)`` gets (batch, *shape) and (batch,) and returns dx/dt.

    For a field with t = 0 at the data, pass ``lambda m, x, t: -m(x, 1 - t)``.
    """
    state = b"".join(v.detach().cpu().contiguous().numpy().tobytes() for v in module.state_dict().values())
    identity = {"weights_sha256": sha256(state), "code_sha256": None}
    method = _Wrapped(_Adapter(module, call)).eval()
    return Model(f"{task}/{name}", TASKS.resolve(task)(), method, None, identity)
