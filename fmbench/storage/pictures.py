"""Reading of lossless pictures from an untrusted folder or zip: 8-bit PNG only, never resized or recompressed."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from fmbench.storage.archives import check_growth, opened, read_member
from fmbench.storage.readers import MEBIBYTE, read_bytes, shown

LOSSY = (".jpg", ".jpeg", ".webp")
LARGEST_PIXELS = 4096 * 4096
LARGEST_FILE = 64 * MEBIBYTE
"""A picture of so many pixels that no packing could make smaller has 50 MB."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Pictures:
    """All pictures of a folder or zip in the order of their names.

    Attributes:
        pixels: uint8 (n, channels, height, width).
        left_out: names of everything there that is no picture.
    """

    pixels: np.ndarray
    left_out: tuple[str, ...]


def _hidden(name: str) -> bool:
    """Whether a file is an operating system's own: nothing is ever unpacked, so that ``..`` is a name like any other."""
    return any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in Path(name).parts)


def _unreadable(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None


def _read_inside(path: Path, root: Path, name: str) -> bytes:
    """A picture of a folder. Raises ValueError for a link out of it and for what is no file: pipes would wait for ever."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{root} holds {shown(name)}, a link that leaves the folder; put the picture itself there")
    try:
        return read_bytes(path, LARGEST_FILE, "picture")
    except FileNotFoundError:
        raise ValueError(f"{root} holds {shown(name)}, a link to nothing; take it out") from None


def _files(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, reader) of everything in a folder or zip, sorted by name; hidden files and folders are left out."""
    if path.is_dir():
        found: list[Path] = []
        for folder, folders, names in os.walk(path, onerror=_unreadable):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            found += [Path(folder, name) for name in (*names, *links)]
        for file in sorted(found):
            name = str(file.relative_to(path))
            if not _hidden(name):
                yield name, lambda file=file, name=name: _read_inside(file, path, name)
        return
    with opened(path) as (archive, infos):
        for info in sorted(infos, key=lambda i: i.filename):
            if not _hidden(info.filename):
                yield info.filename, lambda info=info: read_member(archive, info)


def _check_chunks(data: bytes) -> str | None:
    """The reason why a PNG is invalid, found before decoding, None when it is valid; the checksum of every chunk is checked."""
    if not data.startswith(SIGNATURE):
        return "is damaged or no PNG"
    seen: list[bytes] = []
    position = len(SIGNATURE)
    while not seen or seen[-1] != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position) if position + 12 <= len(data) else (len(data), b"")
        body, position = position + 4, position + 12 + length
        if position > len(data) or zlib.crc32(data[body : position - 4]) != int.from_bytes(
            data[position - 4 : position]
        ):
            return "is damaged or no PNG"
        seen.append(kind)
    if seen[0] != b"IHDR" or seen.count(b"IHDR") > 1:
        return "is damaged or no PNG"
    width, height, depth = struct.unpack_from(">IIB", data, len(SIGNATURE) + 8)
    if width * height > LARGEST_PIXELS:
        return f"has {width} x {height} pixels, more than {LARGEST_PIXELS}"
    if depth > 8 and data[len(SIGNATURE) + 17] != 0:
        return f"has {depth} bits per channel; save 8-bit grey (L) or RGB"
    for kind, what in ((b"acTL", "is animated"), (b"tRNS", "is partly transparent")):
        if kind in seen:
            return f"{what}; save 8-bit grey (L) or RGB"
    return None


def _png(name: str, data: bytes) -> np.ndarray:
    """One picture as uint8 (height, width, channels). Raises ValueError for anything but 8-bit grey or RGB."""
    from PIL import Image

    if wrong := _check_chunks(data):
        raise ValueError(f"picture {shown(name)} {wrong}")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            mode, pixels = image.mode, np.asarray(image)
    except Exception:  # the checksums are right, so somebody built it that way; the decoder has many words for it
        raise ValueError(f"picture {shown(name)} is damaged or no PNG") from None
    if mode not in ("L", "RGB"):
        raise ValueError(f"picture {shown(name)} has mode {mode}; save 8-bit grey (L) or RGB")
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def read_pictures(path: Path) -> Pictures:
    """All pictures of a folder or zip.

    Raises ValueError in one line: none, lossy ones, unequal sizes, damage, links out of the folder, more pixels than
    :func:`~fmbench.storage.archives.check_growth` allows for the bytes read; what ``zipfile`` raises for damage.
    """
    pictures: list[np.ndarray] = []
    left_out: list[str] = []
    packed = unpacked = 0
    for name, read in _files(path):
        suffix = Path(name).suffix.lower()
        if suffix in LOSSY:
            raise ValueError(f"{path} holds {shown(name)}; lossy pictures change every score, save PNG instead")
        if suffix != ".png":
            left_out.append(name)
            continue
        data = read()
        picture = _png(name, data)
        packed, unpacked = packed + len(data), unpacked + picture.nbytes
        check_growth(unpacked, packed, f"{path}")
        if pictures and picture.shape != pictures[0].shape:
            size, first = (" x ".join(map(str, p.shape)) for p in (picture, pictures[0]))
            raise ValueError(
                f"picture {shown(name)} is {size}, the others {first}; nothing is resized here, make them equal"
            )
        pictures.append(picture)
    if not pictures:
        raise ValueError(f"{path} holds no PNG picture")
    return Pictures(np.stack(pictures).transpose(0, 3, 1, 2), tuple(left_out))
