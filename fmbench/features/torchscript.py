"""Tensors of a TorchScript archive read as data: the program in it is never loaded, let alone run.

``torch.jit.load`` executes what the archive says, and ``torch.load(weights_only=True)`` refuses such archives. Here the
pickle that describes the module tree is read by an unpickler that knows tensors and containers and nothing else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmbench.storage.readers import first_line

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "BFloat16Storage": torch.bfloat16,
}


class Node:
    """A module of the archive: its attributes, none of its code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes: dict[str, Any] = state if isinstance(state, dict) else {}


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A tensor from its flat storage; torch checks the bounds."""
    return torch.as_strided(storage, size, stride, offset).clone()


def _same(value: Any, *_: Any) -> Any:
    """Type tags around containers say nothing that is needed here."""
    return value


class Reader(pickle.Unpickler):
    """An unpickler that builds nodes, tensors and containers and refuses every other name."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for. Raises UnpicklingError for a name that is not needed for weights."""
        if module == "__torch__" or module.startswith("__torch__."):
            return Node
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _tensor
        if module == "torch.jit._pickle":
            return _same
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat storage of a record ('storage', dtype, key, device, elements)."""
        _, dtype, key, _, _ = pid
        data = self.archive.read(f"{self.root}/data/{key}")
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensors(node: Node, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in getattr(node, "attributes", {}).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Node):
            yield from _tensors(value, f"{prefix}{name}.")


def read_archive(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a TorchScript archive by dotted name, on the CPU.

    Raises ValueError in one line for a file that is no such archive or that names anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(roots) != 1:
                raise pickle.UnpicklingError(f"it has {len(roots)} files data.pkl")
            return dict(_tensors(Reader(archive, roots[0]).load()))
    except Exception as error:  # bytes that are not its own make an unpickler raise nearly anything
        reason = first_line(error)
        raise ValueError(
            f"{path} is no TorchScript archive of weights ({reason}); delete it and fetch it again"
        ) from error
