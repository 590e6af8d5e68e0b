"""Zip files from anyone: how much they unpack to is bounded before anything is unpacked, and again while it is."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmbench.storage.readers import MEBIBYTE

DIRECTORY = 16 * MEBIBYTE
"""Largest table of contents: 200,000 files with ordinary names have less."""
MOST_FILES = 200_000
FREE = 256 * MEBIBYTE
"""What any file may unpack to."""
RATIO = 200
"""What more than that may unpack to, in sizes of the packed file: pictures and numbers reach 10, a bomb has 1,000 and more."""
PIECE = MEBIBYTE


class _Careful(io.FileIO):
    """A file that nobody reads more of at once than the largest table of contents: its size is stated by the file itself."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most :data:`DIRECTORY` bytes. Raises ValueError when more are asked for."""
        wanted = DIRECTORY + 1 if size is None or size < 0 else size
        data = super().read(min(wanted, DIRECTORY + 1)) or b""
        if len(data) > DIRECTORY or (wanted > DIRECTORY and wanted == size):
            raise ValueError(f"its table of contents is larger than {DIRECTORY // MEBIBYTE} MiB")
        return data


def check_growth(unpacked: int, packed: int, what: str) -> None:
    """Raise ValueError when ``what`` unpacks to more bytes than a file of ``packed`` bytes may."""
    if unpacked > max(FREE, RATIO * packed):
        raise ValueError(
            f"{what} unpacks from {packed:,} to {unpacked:,} bytes; more than {FREE // MEBIBYTE} MiB must not be more than "
            f"{RATIO} times the packed size"
        )


@contextmanager
def opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """A zip file and the files in it, folders left out, in its own order.

    Raises ValueError for too many files, one name twice, encryption, other packings than "stored" and "deflated", and for more data than
    :func:`check_growth` allows; what ``zipfile`` raises for damage.
    """
    with _Careful(path) as file, zipfile.ZipFile(file) as archive:
        found = [info for info in archive.infolist() if not info.is_dir()]
        if len(found) > MOST_FILES:
            raise ValueError(f"it holds {len(found):,} files, more than {MOST_FILES:,}")
        if len({info.filename for info in found}) < len(found):
            raise ValueError("it holds several files of one name")
        for info in found:
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it holds files that are encrypted or packed in an unusual way; pack with deflate")
        check_growth(sum(info.file_size for info in found), path.stat().st_size, "it")
        yield archive, found


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of a file in a zip, a piece at a time and never more than the table of contents says; its checksum is checked.

    Raises what ``zipfile`` raises for damage, EOFError for a file that ends early.
    """
    buffer = io.BytesIO()
    with archive.open(info) as member:
        while piece := member.read(PIECE):
            buffer.write(piece)
    if buffer.tell() != info.file_size:
        raise EOFError(f"a file in it ends after {buffer.tell():,} of {info.file_size:,} bytes")
    return buffer.getvalue()


def copy_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> str:
    """Unpack a file in a zip to a new path, a piece at a time and never more than the table of contents says; the SHA-256 of what was written.

    Raises FileExistsError for a path that is taken, EOFError for a file that ends early, and what ``zipfile`` raises for damage.
    """
    digest, written = hashlib.sha256(), 0
    with archive.open(info) as member, target.open("xb") as file:
        while piece := member.read(PIECE):
            file.write(piece)
            digest.update(piece)
            written += len(piece)
    if written != info.file_size:
        raise EOFError(f"a file in it ends after {written:,} of {info.file_size:,} bytes")
    return digest.hexdigest()
