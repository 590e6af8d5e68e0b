"""Atomic writing of files, through a temporary file in the same folder and one rename, and hashes of files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

ABANDONED_SECONDS = 86_400.0
"""Age from which a temporary file is taken to be that of a process that was killed."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` atomically: a reader sees the old file or the new one, never a part. Raises OSError."""
    if isinstance(data, str):
        data = data.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_abandoned(folder: Path) -> None:
    """Remove temporary neighbours in ``folder`` and below its ``results`` that writers killed a day ago left; younger ones may be in use."""
    mine = ".*.????????.tmp"
    for left in chain(folder.glob(mine), (folder / "results").rglob(mine)):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys in order, NaN refused."""
    write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256(data: Any) -> str:
    """Hexadecimal SHA-256 of bytes, or of the memory of a contiguous array."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read a piece at a time. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """SHA-256 of the canonical JSON of plain data: the identity of a protocol, a recipe, a unit of work."""
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), default=list).encode())


def check_writable(folder: Path) -> None:
    """Raise PermissionError in one line, before any work is done, when nothing can be written in ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"cannot write in {folder}: {error.strerror}; choose another folder with --out"
        ) from error
