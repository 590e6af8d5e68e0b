"""Dropout of a slice of a batch: the rows of the mask of the whole batch; other random numbers of a network are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fmbench.training.piecewise import Rows

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}
_DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli", "multinomial", "poisson",
    "binomial", "normal_", "uniform_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_", "random_", "rrelu",
    "alpha_dropout", "feature_alpha_dropout", "gumbel_softmax", "fractional_max_pool2d", "fractional_max_pool3d", "lstm", "gru",
}  # fmt: skip


class OwnRows(TorchFunctionMode):
    """Inside, dropout draws the mask of the whole batch and uses the rows of the slice; whatever else draws raises ValueError."""

    def __init__(self, rows: Rows, net: str) -> None:
        super().__init__()
        self.rows, self.net = rows, net

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return self._dropout(func, *args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _DRAWS and not _without_dropout(name, args):
            raise ValueError(self._refused(f"draws random numbers with {name}"))
        if name == "scaled_dot_product_attention" and (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)):
            raise ValueError(self._refused("drops out attention weights"))
        return func(*args, **kwargs)

    def _dropout(
        self, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or not p:
            return input
        if input.ndim == 0 or len(input) != self.rows.stop - self.rows.start:
            raise ValueError(self._refused("drops out something that has not the rows of its input"))
        mask = func(input.new_ones((self.rows.batch, *input.shape[1:])), p, training)[self.rows.start : self.rows.stop]
        return input.mul_(mask) if inplace else input * mask

    def _refused(self, what: str) -> str:
        return f"{self.net} {what}, so its batch cannot be cut; train with one process and accumulate 1"


def _without_dropout(name: str, args: Any) -> bool:
    """Whether a recurrent layer draws nothing: its arguments end in (layers, dropout, training, ...)."""
    if name not in ("lstm", "gru"):
        return False
    numbers = [a for a in args if type(a) is float]
    return not any(numbers)


@contextmanager
def same_draws(state: list[Tensor] | None, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators begin at ``state`` (None: as they are) and are put back afterwards."""
    if state is None:
        yield
        return
    before = random_state(device)
    set_random_state(device, state)
    try:
        yield
    finally:
        set_random_state(device, before)


def random_state(device: torch.device) -> list[Tensor]:
    """State of torch's global generators, which dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(device: torch.device, states: list[Tensor]) -> None:
    """Put the global generators into a state that :func:`random_state` gave."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
