"""Reading of existing samples from untrusted files: arrays, or lossless pictures. Nothing is unpickled, resized or recompressed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmbench.shapes import Points
from fmbench.storage.arrays import ARRAYS, KEYED, LISTED, read_array_file
from fmbench.storage.pictures import read_pictures
from fmbench.storage.readers import first_line

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
RANGES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0), "bytes": (0.0, 255.0)}
"""Values of black and white in float images, by the name that `--range` takes."""
DARKEST = 32
"""Images in 0..255 with no pixel above this are suspected to be on another scale."""
DARK_SHARE = 1e-3
"""Float images with a smaller share of values below -0.5 than this may be images on [0, 1] that overshoot: there is hardly a dark pixel."""
EXACT = 2**53
"""Largest integer up to which every one is a float64."""
OVERSHOOT = 2.0
"""Samples of a model may leave [-1, 1]; this far and no farther before the range is doubted."""
HINT = "a .npy, .npz or .safetensors array, or a folder or .zip of PNG pictures"


@dataclass(frozen=True)
class Found:
    """The samples of a file, unconverted, and facts about the file.

    Attributes:
        array: numbers, or pictures as uint8 (n, channels, height, width).
        facts: for the record, where there is something to say: ``array``, the name of the one that was read, ``arrays``, the names of all where
            there are several, ``left_out``, how many files of a folder or zip are no pictures, and the names of the first.
    """

    array: np.ndarray
    facts: dict[str, Any]


def _chosen_array(path: Path, key: str | None, option: str) -> Found:
    chosen = read_array_file(path, key, option)
    facts: dict[str, Any] = {} if chosen.name is None else {"array": chosen.name}
    if len(chosen.names) > 1:
        facts["arrays"] = list(chosen.names[:LISTED])
    return Found(chosen.array, facts)


def _all_pictures(path: Path) -> Found:
    pictures = read_pictures(path)
    left_out = pictures.left_out
    facts = {"left_out": {"files": len(left_out), "first": list(left_out[:LISTED])}} if left_out else {}
    return Found(pictures.pixels, facts)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context in which any exception of a reader becomes a ValueError of one line that names the file."""
    try:
        yield
    except Exception as error:
        # Every reader has exceptions of its own (safetensors a bare Exception); what our checks say already names the file or picture.
        ours = isinstance(error, ValueError) and (str(path) in str(error) or str(error).startswith("picture "))
        if ours and "\n" not in str(error):
            raise error from None
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from None


def check_file(path: Path) -> None:
    """Raise FileNotFoundError or ValueError, in one line, for a path that is missing or of an unsupported kind."""
    if not path.exists():
        raise FileNotFoundError(f"no samples at {path}")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(f"{path}: pickles run code and are refused; save {HINT}")
    if not (path.is_dir() or suffix in (*ARRAYS, ".zip")):
        raise ValueError(f"{path} is no file of samples; give {HINT}")
    if not (path.is_dir() or path.is_file()):
        raise ValueError(f"{path} is no regular file; give {HINT}")


def read_array(path: str | Path, key: str | None = None, option: str = "--key") -> Found:
    """The array of a file as it stands, or pictures as uint8 (n, channels, height, width); ``option`` is how a caller chooses ``key``.

    Sizes that a file states are compared with the bytes that are there before anything is read, and what unpacks to far more than it is packed
    in is refused. Raises FileNotFoundError, or ValueError in one line: pickles, lossy or unequal pictures, no or several arrays, a key for a
    file without names, damage.
    """
    path = Path(path)
    check_file(path)
    if key is not None and (path.is_dir() or path.suffix.lower() not in KEYED):
        raise ValueError(f"{path} has no named arrays, so there is none to choose; leave {option} {key} out")
    with reading(path):
        pictures = path.is_dir() or path.suffix.lower() == ".zip"
        return _all_pictures(path) if pictures else _chosen_array(path, key, option)


def _channels_first(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """(n, h, w) and (n, h, w, c) as (n, c, h, w); what already fits ``shape`` stays."""
    if array.ndim == 3 and (shape is None or len(shape) == 3):
        array = array[:, None]
    if array.ndim == 4 and array.shape[1:] != shape and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    return array


def _scaled(images: np.ndarray, value_range: str | None, where: str) -> np.ndarray:
    """Pixels as float32 on the scale where [-1, 1] is black to white. Raises ValueError when the range is wrong or cannot be known."""
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{where} holds {images.dtype}; images must be uint8 or floats, convert them")
    low, high = float(images.min()), float(images.max())
    if images.dtype == np.uint8:
        if high <= DARKEST:
            raise ValueError(
                f"{where} holds uint8 images of at most {high:g} of 255, all but black; scale them to 0..255"
            )
        return images.astype(np.float32) / np.float32(127.5) - 1
    told = f"{where} holds float images from {low:g} to {high:g}"
    if value_range is None:
        if low >= 0:
            raise ValueError(f"{told}; say which range that is with --range {_likely(high)}")
        if float((images < -0.5).mean()) < DARK_SHARE:
            raise ValueError(
                f"{told}, hardly any below -0.5; say which range that is with --range signed, or unit (0 to 1)"
            )
        value_range = "signed"
    start, stop = RANGES[value_range]
    with np.errstate(over="ignore"):
        x = images.astype(np.float32)
        if value_range != "signed":
            x = (x - np.float32(start)) * np.float32(2 / (stop - start)) - 1
    if float(np.abs(x).max()) > OVERSHOOT or (value_range == "bytes" and high <= DARKEST):
        ranges = ", ".join(f"{name} ({a:g} to {b:g})" for name, (a, b) in RANGES.items())
        raise ValueError(f"{told}, which does not fit the range {value_range}; allowed: {ranges}")
    return x


def _likely(high: float) -> str:
    if high <= 1:
        return "unit (0 to 1)"
    return (
        "bytes (0 to 255)" if high > DARKEST else f"... after scaling: {high:g} is white in none of {', '.join(RANGES)}"
    )


def _single(array: np.ndarray, where: str) -> np.ndarray:
    """Vectors as float32, as every sample is. Raises ValueError when rounding would remove the differences between samples."""
    if array.dtype.kind in "iu" and max(int(array.max()), -int(array.min())) > EXACT:
        raise ValueError(f"{where} holds integers beyond 2^53, which are not told apart; subtract a common offset")
    with np.errstate(over="ignore", invalid="ignore"):
        exact = array.astype(np.float64)
        single = exact.astype(np.float32)
        spread = float(np.ptp(exact, axis=0).max())
        lost = float(np.abs(single - exact).max())
    # Equal samples differ by nothing that could be lost; what overflows is no number any more.
    if not math.isfinite(lost) or (spread > 0 and lost > 1e-4 * spread):
        raise ValueError(
            f"{where} holds values up to {np.abs(exact).max():.3g} that span {spread:.3g}, which float32 cannot tell apart; "
            "subtract a common offset from both sets, or rescale them"
        )
    return single


def _fitted(array: np.ndarray, shape: tuple[int, ...] | None, where: str) -> np.ndarray:
    """The array as (n, d) or (n, channels, height, width), and (n, *shape). Raises ValueError for one that does not fit."""
    array = _channels_first(array, shape)
    fits = shape is None or array.shape[1:] == shape
    if shape is not None and not fits and array.ndim > 1 and math.prod(array.shape[1:]) == math.prod(shape):
        if array.ndim != 2:
            raise ValueError(f"{where} holds samples of shape {array.shape[1:]}, the task has {shape}")
        return array.reshape(-1, *shape)
    if not fits or array.ndim not in (2, 4):
        wanted = "(n, d) vectors or (n, channels, height, width) images"
        wanted = wanted if shape is None else f"samples of shape {shape}"
        raise ValueError(f"{where} holds an array of shape {array.shape}; expected {wanted}")
    return array


def read_samples(
    path: str | Path,
    shape: tuple[int, ...] | None = None,
    key: str | None = None,
    value_range: str | None = None,
    key_option: str = "--key",
) -> tuple[Points, dict[str, Any]]:
    """Samples ready to be scored, float32 (n, *shape), images on [-1, 1], and facts about them for the record.

    Args:
        path: the file or folder.
        shape: shape of one sample; without it (n, d) arrays are vectors and everything else images.
        key: which array of a .npz or .safetensors file.
        value_range: black and white of float images, a name in :data:`RANGES`; uint8 and pictures are always 0 to 255.
        key_option: how the caller's user says ``key``, for messages.

    The facts are those of :class:`Found`, ``dtype``, and for images ``clipped_share``, the share of values outside [-1, 1].

    Raises FileNotFoundError, or ValueError in one line for everything that cannot be scored as it is: NaN (how many, where first), another
    shape, a range that does not fit, an empty set.
    """
    if value_range is not None and value_range not in RANGES:
        raise ValueError(f"unknown range {value_range!r}; allowed: {', '.join(RANGES)}")
    found = read_array(path, key, key_option)
    array = found.array
    if array.ndim == 0:
        raise ValueError(f"{path} holds no samples: its array has shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating) and (bad := ~np.isfinite(array)).any():
        row = int(np.argwhere(bad)[0][0])
        raise ValueError(
            f"{path} has {int(bad.sum())} NaN or infinite values, the first in sample {row}; leave them out"
        )
    array = _fitted(array, shape, str(path))
    facts = {"dtype": str(array.dtype), **found.facts}
    if array.ndim == 2:
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{path} holds {array.dtype}, expected real numbers")
        return torch.from_numpy(_single(array, str(path))), facts
    images = _scaled(array, value_range, str(path))
    outside = float((np.abs(images) > 1 + 1e-4).mean())
    return torch.from_numpy(np.ascontiguousarray(images)), {**facts, "clipped_share": outside}
