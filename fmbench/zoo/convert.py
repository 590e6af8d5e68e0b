"""A checkpoint that is a pickle, as safetensors: only tensors and containers are read of it, whatever else it names is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmbench.storage.files import file_sha256, write_atomic
from fmbench.storage.readers import first_line, shown

DEEPEST = 8
"""Levels of tables in a checkpoint: weights, averages and optimisers stand in three or four."""


@dataclass(frozen=True)
class Converted:
    """A new weight file.

    Attributes:
        path, sha256: of the file.
        tensors: names of what it holds, joined by dots where tables stand in tables.
        dropped: names of what is no tensor.
    """

    path: Path
    sha256: str
    tensors: tuple[str, ...]
    dropped: tuple[str, ...]


def convert(source: Path, target: Path, part: str | None = None) -> Converted:
    """Write the tensors of a checkpoint of torch as safetensors; ``part`` is the table to take, ``ema.net`` for one in another.

    The file is read by torch's reader of weights, which knows tensors and containers and runs nothing else. Raises FileNotFoundError,
    FileExistsError for a target that is there, ValueError in one line for a file that holds more than that, or no tensors.
    """
    from safetensors.torch import save

    if not source.is_file():
        raise FileNotFoundError(f"no checkpoint at {source}")
    if target.exists():
        raise FileExistsError(f"{target} is there already; name another file with -o, or delete it")
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has many ways to fail
        raise ValueError(
            f"{source} holds more than tensors and tables ({first_line(error)}); save its state_dict with the library that made it"
        ) from None
    for key in part.split(".") if part else ():
        if not isinstance(content, Mapping) or key not in content:
            names = (
                ", ".join(shown(str(name)) for name in list(content)[:8])
                if isinstance(content, Mapping)
                else "no table"
            )
            raise ValueError(f"{source} has no part {part!r} ({key!r} is not among {names})")
        content = content[key]
    found = dict(_leaves(content))
    tensors = {name: value.detach().clone().contiguous() for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{source} holds no tensors{f' in {part}' if part else ''}")
    write_atomic(target, save(tensors))
    return Converted(target, file_sha256(target), tuple(tensors), tuple(name for name in found if name not in tensors))


def _leaves(value: Any, name: str = "", depth: int = DEEPEST) -> Iterator[tuple[str, Any]]:
    """What tables hold in the end, by joined names."""
    if depth and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key), depth - 1)
    else:
        yield name or "tensor", value
