"""Tensors in a file together with the hash of everything in it: what is read back is what was written, or nothing.

A cache may lose a bit, a tail, or be copied over another one. All of it would be another score rather than an error, so a file says what it
holds: names, dtypes, shapes, bytes, the facts beside them, and the name it was written under.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmbench.storage.files import write_atomic

SEAL = "sha256"
NAME = "file"


@dataclass(frozen=True)
class Stored:
    """What a file holds: tensors by name, on the CPU, and facts by name."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str]


def content_sha256(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 of the facts and of the names, dtypes, shapes and bytes of contiguous tensors on the CPU."""
    described = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([dict(facts), described], sort_keys=True).encode())
    for name in sorted(tensors):
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write tensors and facts atomically as safetensors, sealed with the hash of it all. Raises OSError when it cannot."""
    from safetensors.torch import save

    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = {**(facts or {}), NAME: path.name}
    write_atomic(path, save(kept, {**told, SEAL: content_sha256(kept, told)}))


def read(path: Path) -> Stored | None:
    """What :func:`write` has written under this very name; None when there is nothing, or when a single bit of it is another one."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            # Copies: the tensors of the reader are a map of the file, and what is hashed must be what is used.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
            facts = dict(file.metadata() or {})
        intact = facts.pop(SEAL) == content_sha256(tensors, facts) and facts.pop(NAME) == path.name
    except Exception:  # the reader raises a bare Exception of its own; whatever it is, the file is not what was written
        return None
    return Stored(tensors, facts) if intact else None
