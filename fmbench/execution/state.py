"""The hash of a module's state."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def _feed(digest: Any, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        tensor = value.detach()
        tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _feed(digest, f"{name}.{key}", part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _feed(digest, f"{name}.{index}", part)
    else:
        digest.update(f"{name} {type(value).__name__}\n".encode())
        digest.update(pickle.dumps(value, protocol=4))


def state_hash(module: nn.Module) -> str:
    """SHA-256 of everything a module holds: names, shapes, dtypes and bits of its tensors, and its extra state."""
    digest = hashlib.sha256()
    _feed(digest, "", module.state_dict())
    return digest.hexdigest()
