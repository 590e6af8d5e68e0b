"""Samples that exist already, from files of anybody: arrays, or pictures without loss. Nothing is unpickled, resized or recompressed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmbench.shapes import Points

ARRAYS = (".npy", ".npz", ".safetensors")
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
LOSSY = (".jpg", ".jpeg", ".webp")
RANGES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0), "bytes": (0.0, 255.0)}
"""What black and white are in float images, by the name that `--range` takes."""
DARKEST = 32
"""Images in 0..255 with no pixel above this are taken for images on another scale."""
DARK_SHARE = 1e-3
"""Float images with a smaller share of values below -0.5 than this may be images on [0, 1] that overshoot: there is hardly a dark pixel."""
OVERSHOOT = 2.0
"""Samples of a model may leave [-1, 1]; this far and no farther before the range is doubted."""
LARGEST_PIXELS = 4096 * 4096
HINT = "a .npy, .npz or .safetensors array, or a folder or .zip of PNG pictures"


def _chosen(names: list[str], key: str | None, where: Path) -> str:
    """The array to read. Raises ValueError when there is a choice and none was made."""
    if key is None and len(names) > 1:
        key = next((name for name in ("samples", "arr_0") if name in names), None)
    if key is None and len(names) == 1:
        return names[0]
    if key not in names:
        asked = "several arrays" if key is None else f"no array {key!r}"
        raise ValueError(f"{where} has {asked}; choose one with --key: {', '.join(names) or 'none'}")
    return key


def _array(path: Path, key: str | None) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file[_chosen(list(file), key, path)]
    from safetensors import safe_open

    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
        tensor = file.get_tensor(_chosen(list(file.keys()), key, path))
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _hidden(name: str) -> bool:
    """Whether a file is an operating system's own: nothing is ever unpacked, so that ``..`` is a name like any other."""
    return any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in Path(name).parts)


def _files(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, reader) of everything in a folder or zip, sorted by name; hidden files and folders are left out."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
        named = [(str(p.relative_to(path)), p.read_bytes) for p in found]
        yield from ((name, read) for name, read in named if not _hidden(name))
        return
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.filename):
            if not info.is_dir() and not _hidden(info.filename):
                yield info.filename, lambda info=info: archive.read(info)


def _png(name: str, data: bytes) -> np.ndarray:
    """One picture as uint8 (height, width, channels). Raises ValueError for anything but 8-bit grey or RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise ValueError(
                    f"picture {name} has {image.width} x {image.height} pixels, more than {LARGEST_PIXELS}"
                )
            if image.mode not in ("L", "RGB"):
                raise ValueError(f"picture {name} has mode {image.mode}; save 8-bit grey (L) or RGB")
            pixels = np.asarray(image)
    except (OSError, SyntaxError):
        raise ValueError(f"picture {name} is damaged or no PNG") from None
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _pictures(path: Path) -> np.ndarray:
    """All pictures of a folder or zip as uint8 (n, channels, height, width)."""
    pictures: list[np.ndarray] = []
    for name, read in _files(path):
        suffix = Path(name).suffix.lower()
        if suffix in LOSSY:
            raise ValueError(f"{path} holds {name}; lossy pictures change every score, save PNG instead")
        if suffix != ".png":
            continue
        picture = _png(name, read())
        if pictures and picture.shape != pictures[0].shape:
            size, first = (" x ".join(map(str, p.shape)) for p in (picture, pictures[0]))
            raise ValueError(f"picture {name} is {size}, the others {first}; nothing is resized here, make them equal")
        pictures.append(picture)
    if not pictures:
        raise ValueError(f"{path} holds no PNG picture")
    return np.stack(pictures).transpose(0, 3, 1, 2)


def read_array(path: str | Path, key: str | None = None) -> np.ndarray:
    """The array of a file as it stands, or pictures as uint8 (n, channels, height, width).

    Raises FileNotFoundError, or ValueError in one line: pickles, lossy or unequal pictures, no or several arrays.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no samples at {path}")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(f"{path}: pickles run code and are refused; save {HINT}")
    if not (path.is_dir() or suffix in (*ARRAYS, ".zip")):
        raise ValueError(f"{path} is no file of samples; give {HINT}")
    try:
        return _pictures(path) if path.is_dir() or suffix == ".zip" else _array(path, key)
    except Exception as error:
        # Every reader has exceptions of its own (safetensors a bare Exception); what our checks say already names the file or picture.
        ours = isinstance(error, ValueError) and (str(path) in str(error) or str(error).startswith("picture "))
        what = (str(error).splitlines() or ["?"])[0]
        if "pickle" in what:
            what = "it is damaged, or holds Python objects, which run code and are refused; save numbers"
        raise (error if ours else ValueError(f"{path} cannot be read: {what}")) from None


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
    """Vectors as float32, as every sample is. Raises ValueError when that would lose what the samples differ by."""
    exact = array.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        single = exact.astype(np.float32)
    spread = float(np.ptp(exact, axis=0).max())
    lost = float(np.abs(single - exact).max())
    if not lost <= 1e-4 * spread and lost > 0:
        raise ValueError(
            f"{where} holds values up to {np.abs(exact).max():.3g} that span {spread:.3g}, which float32 cannot tell apart; "
            "subtract a common offset from both sets, or rescale them"
        )
    return single


def read_samples(
    path: str | Path, shape: tuple[int, ...] | None = None, key: str | None = None, value_range: str | None = None
) -> tuple[Points, dict[str, Any]]:
    """Samples ready to be scored, float32 (n, *shape), images on [-1, 1], and facts about them for the record.

    Args:
        path: the file or folder.
        shape: shape of one sample; without it (n, d) arrays are vectors and everything else images.
        key: which array of a .npz or .safetensors file.
        value_range: black and white of float images, a name in :data:`RANGES`; uint8 and pictures are always 0 to 255.

    Raises FileNotFoundError, or ValueError in one line for everything that cannot be scored as it is: NaN (how many, where first), another
    shape, a range that does not fit, an empty set.
    """
    if value_range is not None and value_range not in RANGES:
        raise ValueError(f"unknown range {value_range!r}; allowed: {', '.join(RANGES)}")
    array = read_array(path, key)
    if array.ndim == 0 or not array.size:
        raise ValueError(f"{path} holds no samples: its array has shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating) and (bad := ~np.isfinite(array)).any():
        row = int(np.argwhere(bad)[0][0])
        raise ValueError(
            f"{path} has {int(bad.sum())} NaN or infinite values, the first in sample {row}; leave them out"
        )
    array = _channels_first(array, shape)
    if (
        shape is not None
        and array.shape[1:] != shape
        and array.reshape(len(array), -1).shape[1:] == (int(np.prod(shape)),)
    ):
        if array.ndim != 2:
            raise ValueError(f"{path} holds samples of shape {array.shape[1:]}, the task has {shape}")
        array = array.reshape(-1, *shape)
    if (shape is not None and array.shape[1:] != shape) or array.ndim not in (2, 4):
        wanted = (
            "(n, d) vectors or (n, channels, height, width) images" if shape is None else f"samples of shape {shape}"
        )
        raise ValueError(f"{path} holds an array of shape {array.shape}; expected {wanted}")
    if array.ndim == 2:
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise ValueError(f"{path} holds {array.dtype}, expected real numbers")
        return torch.from_numpy(_single(array, str(path))), {"dtype": str(array.dtype)}
    images = _scaled(array, value_range, str(path))
    outside = float((np.abs(images) > 1 + 1e-4).mean())
    return torch.from_numpy(np.ascontiguousarray(images)), {"dtype": str(array.dtype), "clipped_share": outside}
