"""Reading of untrusted array files: .npy, .npz, .safetensors. Nothing is unpickled, and headers are checked against the file size."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fmbench.storage.archives import PIECE, opened
from fmbench.storage.readers import MEBIBYTE, first_line, shown, unique_keys

KEYED = (".npz", ".safetensors")
"""Files of several arrays, each under a name."""
ARRAYS = (".npy", *KEYED)
PREFERRED = ("samples", "arr_0")
"""Names that are read as samples when a file has several arrays and none was requested."""
STATISTICS = ("mu", "sigma")
"""Mean and covariance of features, the form in which FID tools store a reference."""
SPATIAL = ("mu_s", "sigma_s")
"""Statistics of other features that the reference files of guided-diffusion hold as well."""
HEAD = 1 << 16
"""Bytes that the header of an .npy file may have."""
TENSOR_HEADER = 16 * MEBIBYTE
MOST_DIMENSIONS = 32
NUMBERS = "fiub"
LISTED = 8
"""Names that a message shows."""


@dataclass(frozen=True)
class Chosen:
    """An array of a file with its name.

    Attributes:
        array: the values as in the file.
        name: its name, None in files of one array without a name.
        names: all names of the file, none in files without.
    """

    array: np.ndarray
    name: str | None = None
    names: tuple[str, ...] = ()


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(map(shown, names[:LISTED])) + more


def choose(names: Sequence[str], key: str | None, where: Path, option: str = "--key") -> str:
    """The name of the array to read. Raises ValueError when there are several and none was chosen, or when it does not exist."""
    if key is None and names and set(names) <= {*STATISTICS, *SPATIAL}:
        raise ValueError(
            f"{where} holds statistics of features ({listed(names)}) and no samples; it can be a --reference only"
        )
    if key is None and len(names) > 1:
        key = next((name for name in PREFERRED if name in names), None)
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        asked = "several arrays" if key is None else f"no array {key!r}"
        has = f"; choose one with {option}: {listed(names)}" if names else ""
        raise ValueError(f"{where} has {asked if names else 'no arrays'}{has}")
    return key


def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, dtype, and where the data begin. Raises what NumPy raises for damage."""
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    readers: dict[tuple[int, int], Callable] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"it has version {version[0]}.{version[1]} of the format, which plain arrays do not need")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers that Python 2 wrote
        shape, columns_first, dtype = readers[version](stream)
    if not all(type(length) is int for length in shape):
        raise ValueError(f"its header states the shape {shape!s:.100}")
    return shape, columns_first, dtype, stream.tell()


def read_npy(file: BinaryIO, size: int, where: str) -> np.ndarray:
    """The array of an .npy file of ``size`` bytes; the file ends where the array does.

    Raises ValueError in one line that begins with ``where``: no such file, other things than numbers, a header that states another size than
    the file has. Memory is taken only once that is clear.
    """
    head = file.read(min(HEAD, size))
    try:
        shape, columns_first, dtype, start = _header(head)
    except Exception as error:  # NumPy parses a Python expression here: there is hardly an exception it cannot raise
        raise ValueError(f"{where} is no .npy array, or is damaged: {first_line(error)}") from None
    if dtype.hasobject:
        raise ValueError(f"{where} holds Python objects, which run code and are refused; save numbers")
    if dtype.kind not in NUMBERS or dtype.shape:
        raise ValueError(f"{where} holds {dtype!s:.60}; expected numbers, uint8 or floats")
    stated, there = math.prod(shape) * dtype.itemsize, size - start
    if min(shape, default=0) < 0 or len(shape) > MOST_DIMENSIONS or stated != there:
        raise ValueError(
            f"{where} is damaged: its header states shape {shape!s:.100} of {dtype}, {stated:.10g} bytes, and {there:,} are there"
        )
    if not stated:
        raise ValueError(f"{where} holds no samples: its array has shape {shape!s:.100}")
    data = np.empty(stated, np.uint8)
    filled = len(head) - start
    data[:filled] = np.frombuffer(head, np.uint8, offset=start)
    while piece := file.read(PIECE):
        data[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    if filled != stated:
        raise ValueError(f"{where} is damaged: it ends after {start + filled:,} of {size:,} bytes")
    return data.view(dtype).reshape(shape[::-1]).T if columns_first else data.view(dtype).reshape(shape)


def _tensor_names(path: Path) -> tuple[str, ...]:
    """Names in a .safetensors file, sorted, from its header. Raises ValueError for one that is damaged or too long."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, TENSOR_HEADER):
            raise ValueError(f"{path} is damaged, or no .safetensors file: its header states {length:,} bytes")
        try:
            header = json.loads(file.read(length), object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or no .safetensors file: {first_line(error)}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged, or no .safetensors file: its header is no table")
    return tuple(sorted(name for name in header if name != "__metadata__"))


def _tensor(path: Path, name: str) -> np.ndarray:
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        tensor = file.get_tensor(name).clone()
    if not tensor.numel():
        raise ValueError(f"{path} holds no samples: its array has shape {tuple(tensor.shape)}")
    if tensor.dtype.is_complex:
        raise ValueError(f"{path} holds {tensor.dtype}; expected numbers, uint8 or floats")
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays of an .npz or .safetensors file in order, nothing for other files. Raises what the reader of the format does."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _tensor_names(path)
    if suffix != ".npz":
        return ()
    with opened(path) as (_, found):
        return tuple(info.filename.removesuffix(".npy") for info in found if info.filename.endswith(".npy"))


def read_array_file(path: Path, key: str | None = None, option: str = "--key") -> Chosen:
    """The array of a regular file with a suffix of :data:`ARRAYS`, the one named ``key`` where there are several.

    Raises ValueError in one line for what is no plain array of numbers or a choice to make (with ``option``), and what the readers of the
    formats raise for damage.
    """
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return Chosen(read_npy(file, path.stat().st_size, str(path)))
    names = array_names(path)
    name = choose(names, key, path, option)
    if path.suffix.lower() == ".safetensors":
        return Chosen(_tensor(path, name), name, names)
    with opened(path) as (archive, found):
        info = next(info for info in found if info.filename == f"{name}.npy")
        with archive.open(info) as member:
            return Chosen(read_npy(member, info.file_size, f"{path}, array {shown(name)},"), name, names)  # type: ignore[arg-type]
