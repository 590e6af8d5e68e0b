"""Storage on disk of the samples that a training run draws from its base, so that an interrupted run can reuse them.

Only calls of the base's ``sample`` are intercepted; a method may make them before the first step or in any later one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fmbench.execution.state import state_hash
from fmbench.progress import progress_bars
from fmbench.storage import tensors
from fmbench.storage.files import fingerprint, sha256
from fmbench.storage.readers import MEBIBYTE

Base = TypeVar("Base", bound=nn.Module)
MOST_BYTES = 16 * 1024 * MEBIBYTE
"""Largest size of samples on disk; a method that draws in every step draws more, and does not reuse them."""


@contextmanager
def remembering(base: Base | None, folder: Path, shown: bool = True) -> Iterator[Base | None]:
    """A view of the base that looks samples up in ``folder`` before drawing them; the base itself is unchanged. None for None.

    A file is named by the content of everything the samples depend on: weights, start points, sampler, condition. A damaged file is drawn
    again; beyond :data:`MOST_BYTES` samples are drawn and not stored. A bar counts the samples from the first one on; ``shown`` is True for
    one of several processes that draw the same samples.
    """
    if base is None:
        yield None
        return
    with ExitStack() as stack:
        view = copy.copy(base)
        view.__dict__["sample"] = _Remembered(base, folder, shown, stack).sample
        yield view


class _Remembered:
    """The samples of a base, from a folder."""

    def __init__(self, base: nn.Module, folder: Path, shown: bool, stack: ExitStack) -> None:
        self.base, self.folder, self.shown, self.stack = base, folder, shown, stack
        self.kept = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    @cached_property
    def weights(self) -> str:
        """Hash of the weights, computed with the first request for samples."""
        return state_hash(self.base)

    @cached_property
    def advance(self) -> Any:
        """Moves the bar, which is there from the first samples on."""
        progress = self.stack.enter_context(progress_bars(self.shown))
        return partial(progress.advance, progress.add_task("samples of the base", total=None))

    def sample(self, start: Any, *given: Any, **named: Any) -> Tensor:
        """The samples of the base, on the device of the start points, from a file where there is one."""
        advance = self.advance
        content = [self.weights, _described(start), _described(given), _described(named)]
        path = self.folder / f"{fingerprint(content)[:32]}.safetensors"
        device = _points(start).device
        stored = tensors.read(path)
        samples = None if stored is None else stored.tensors.get("samples")
        if samples is None:
            samples = self.base.sample(start, *given, **named).detach().cpu().contiguous()  # pyright: ignore[reportCallIssue]
            self._keep(path, samples)
        advance(len(samples))
        return samples.to(device)

    def _keep(self, path: Path, samples: Tensor) -> None:
        """Write samples unless there are too many already."""
        if self.kept + samples.nbytes <= MOST_BYTES:
            tensors.write(path, {"samples": samples})
            self.kept += samples.nbytes


def _points(start: Any) -> Tensor:
    """The source points: given as they are, or by an object that draws them."""
    return start if isinstance(start, Tensor) else start.start()


def _described(value: Any) -> Any:
    """Plain data that differs when the value does: tensors by their content, draws by their points and keys."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous()
        return [str(flat.dtype), list(flat.shape), sha256(flat.reshape(-1).view(torch.uint8).numpy().tobytes())]
    if callable(start := getattr(value, "start", None)):
        keys = {name: key for name, key in vars(value).items() if type(key) is int}
        return [type(value).__name__, keys, _described(start())]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {f.name: _described(getattr(value, f.name)) for f in dataclasses.fields(value)}]
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_described(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"samples of a base cannot be named by a value of type {type(value).__name__}; give plain data, tensors or dataclasses"
    )
