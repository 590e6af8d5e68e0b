"""The file of an interrupted training: written whole, bounded and checked in every field before anything of it is used."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmbench.storage.readers import MEBIBYTE, first_line

Content = dict[str, Any]


class Damaged(ValueError):
    """A file is no checkpoint, or belongs to another network."""


def write(path: Path, content: Content) -> None:
    """Write a checkpoint atomically, its tensors on the CPU, readable where there is no other device."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:
        torch.save(_on_cpu(content), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_on_cpu(value) for value in state]
    return state.cpu() if isinstance(state, Tensor) else state


def read(path: Path, largest: int) -> Content:
    """The tables of a checkpoint of at most ``largest`` bytes. Raises Damaged in one line for anything else."""
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        if path.stat().st_size > largest:
            raise ValueError(f"it has more than {largest} bytes")
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(p.compress_type != zipfile.ZIP_STORED for p in parts) or sum(p.file_size for p in parts) > largest:
                raise ValueError("it is compressed")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except Exception as error:  # torch.load has many ways to fail on bytes that are not its own
        raise _damaged(path, first_line(error)) from error
    return content


def _damaged(path: Path, reason: str) -> Damaged:
    return Damaged(f"{path} is damaged ({reason[:100]}); delete it to start from the first step")


def largest(*states: Any) -> int:
    """Bytes that a checkpoint of these states may have: what they hold, and room for its tables."""
    held = [_bytes(state) for state in states]
    return 2 * sum(held) + 16 * MEBIBYTE


def _bytes(state: Any) -> int:
    if isinstance(state, Mapping):
        return sum(1024 + _bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(1024 + _bytes(value) for value in state)
    return state.numel() * state.element_size() if isinstance(state, Tensor) else 0


@dataclass(frozen=True)
class Expected:
    """The expected optimiser state of a checkpoint: its name, the present state dict, and one after a step, for names, shapes and dtypes."""

    name: str
    now: Mapping[str, Any]
    stepped: Mapping[str, Any]


def require_run(
    path: Path, content: Content, states: Mapping[str, Mapping[str, Tensor]], optimiser: Expected, steps: int
) -> None:
    """Raise Damaged in one line, naming the field, when ``content`` does not come from a run of ``steps`` steps with these states.

    ``states`` are those of the method and its average as they are now.
    """
    try:
        step, seconds = content.get("step"), content.get("seconds")
        if type(step) is not int or not 0 <= step <= steps:
            raise ValueError(f"step is {step!r:.40}, not a whole number from 0 to {steps}")
        if not isinstance(seconds, float) or not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"seconds is {seconds!r:.40}, not a number of at least 0")
        for name, state in states.items():
            _require_like(content.get(name), state, name)
        if int(content["average"]["n_averaged"]) != step:
            raise ValueError(f"the average is of another step than {step}")
        # Before optimisers had names there was one.
        name = content.get("optimiser_name", "adamw")
        if name != optimiser.name:
            raise ValueError(f"optimiser_name is {name!r:.40}, not {optimiser.name}")
        _require_optimiser(content.get("optimiser"), optimiser, step)
    except ValueError as error:
        raise _damaged(path, first_line(error)) from None


def _require_like(found: Any, state: Mapping[str, Tensor], where: str) -> None:
    if not isinstance(found, Mapping) or set(found) != set(state):
        raise ValueError(f"{where} has other names than the network")
    for name, value in state.items():
        _require_tensor(found[name], value, f"{where} {name}")


def _require_tensor(found: Any, like: Tensor, where: str) -> None:
    fits = isinstance(found, Tensor) and found.shape == like.shape and found.dtype == like.dtype
    if not fits or found.layout != torch.strided or found.device.type != "cpu":
        raise ValueError(f"{where} is not a tensor of shape {tuple(like.shape)} and {like.dtype}")


def _require_optimiser(found: Any, expected: Expected, step: int) -> None:
    if not isinstance(found, dict) or set(found) != {"state", "param_groups"}:
        raise ValueError(f"optimiser is no state of {expected.name}")
    groups, own = found["param_groups"], expected.now["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own):
        raise ValueError("optimiser has other groups of parameters")
    for group, mine, stepped in zip(groups, own, expected.stepped["param_groups"], strict=True):
        _require_group(group, mine, stepped)
    if not isinstance(found["state"], dict):
        raise ValueError("optimiser has no state")
    for index, held in found["state"].items():
        like = expected.stepped["state"].get(index)
        if type(index) is not int or like is None:
            raise ValueError("optimiser has a parameter too many")
        _require_held(held, like, expected.name, index, step)


def _require_group(group: Any, mine: Mapping[str, Any], stepped: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that are not those of the run; one that a step changes, the learning rate among them, may differ."""
    if not isinstance(group, dict) or not {"params", "lr"} <= set(group) <= set(mine):
        raise ValueError("optimiser has other settings")
    if not isinstance(group["lr"], float):
        raise ValueError("optimiser has no learning rate")
    for key in set(group) - {"lr"}:
        moves = not _same(mine[key], stepped[key])
        if type(group[key]) is not type(mine[key]) or not (moves or _same(group[key], mine[key])):
            raise ValueError(f"optimiser has another {key}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a.cpu(), b.cpu())
    return type(a) is type(b) and bool(a == b)


def _require_held(found: Any, like: Mapping[str, Any], name: str, index: int, step: int) -> None:
    """Raise ValueError unless the optimiser state of one parameter has the layout that it has after a step."""
    if not isinstance(found, dict) or set(found) != set(like):
        raise ValueError(f"optimiser state {index} is not that of {name}")
    for key, value in like.items():
        if isinstance(value, Tensor):
            _require_tensor(found[key], value, f"optimiser {key} {index}")
        elif type(found[key]) is not type(value):
            raise ValueError(f"optimiser {key} {index} is {found[key]!r:.40}, not a {type(value).__name__}")
    if "step" in like and not 0 <= float(found["step"]) <= step:
        raise ValueError(f"optimiser step {index} is not one of {step}")
