"""Reading of an untrusted weight file: its size is checked before its header, its header before its content. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from fmbench.execution.foreign import foreign
from fmbench.records.pins import MOST_BYTES, Weights
from fmbench.storage.files import sha256
from fmbench.storage.readers import MEBIBYTE, read_bytes

LARGEST_HEADER = 16 * MEBIBYTE
WHAT = "weight file"
Header = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor -> (dtype as safetensors writes it, shape)."""


def require_size(path: Path, pinned: Weights) -> None:
    """Raise FileNotFoundError or ValueError in one line when ``path`` is no regular file of the size that the recipe pins."""
    if not path.is_file():
        what = "is no regular file" if path.exists() or path.is_symlink() else "is missing"
        raise FileNotFoundError(f"weight file {path.name} {what} in {path.parent}")
    size = path.stat().st_size
    if size != pinned.bytes or size > MOST_BYTES:
        raise ValueError(f"{path} has {size} bytes, and its recipe pins {pinned.bytes}")


def read_header(path: Path) -> Header:
    """Names, dtypes and shapes of the tensors in a safetensors file, without their content.

    Raises ValueError in one line for a file whose header is too large, is no header, or names a tensor twice.
    """
    from safetensors import safe_open

    with foreign(f"{path} is no {WHAT}"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, path.stat().st_size - 8):
                raise ValueError(f"its header claims {length} bytes")
            text = file.read(length)
        # The library checks every offset, dtype and shape against the size of the file.
        with safe_open(path, "np"):  # type: ignore[no-untyped-call]
            pass
        pairs = json.loads(text, object_pairs_hook=list)
        names = [name for name, _ in pairs if name != "__metadata__"]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"it names the tensor {twice!r:.80} twice")
        tables = {name: dict(table) for name, table in pairs if name != "__metadata__"}
        return {name: (table["dtype"], tuple(table["shape"])) for name, table in tables.items()}


def read_pinned(path: Path, pinned: Weights) -> bytes:
    """The content of a weight file. Raises ValueError naming the hash expected and the hash found, and what :func:`require_size` raises."""
    require_size(path, pinned)
    data = read_bytes(path, pinned.bytes, WHAT)
    if (found := sha256(data)) != pinned.sha256:
        raise ValueError(f"{path}: SHA-256 expected {pinned.sha256}, found {found}; fetch or train it again")
    return data
