"""Files of tensors with a hash of their content, so that damaged files are never used.

A cache file may lose a bit or its tail, or be copied over another one, which would change a score without an error. The hash therefore
covers names, dtypes, shapes, bytes, the facts beside them, and the name of the file.
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
    """The content of a file: tensors by name, on the CPU, and facts by name."""

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
    """The content that :func:`write` wrote under this name; None when there is no file, or when a single bit has changed."""
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
