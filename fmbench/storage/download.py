"""Downloads over HTTP on first use: resumed when a connection breaks, renamed to their final name after verification."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fmbench.progress import progress_bars
from fmbench.storage.cache import cache_root
from fmbench.storage.failures import answered, is_disk_full, root_line, writing
from fmbench.storage.files import file_sha256

MIRROR_VARIABLE = "FMBENCH_MIRROR"
"""URL of a folder that holds all files under their own names; it replaces every address."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
FRUITLESS = 3
"""Consecutive connections without new data after which a download is abandoned."""
PIECE = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    Attributes:
        filename: its name in the cache and on a mirror.
        url: its address.
        sha256: pinned hash, None where none was published.
    """

    filename: str
    url: str
    sha256: str | None

    @property
    def address(self) -> str:
        """Its address, or that on the mirror that ``FMBENCH_MIRROR`` names."""
        mirror = os.environ.get(MIRROR_VARIABLE)
        return f"{mirror.rstrip('/')}/{self.filename}" if mirror else self.url


def _explain(error: Exception, address: str, path: Path) -> OSError:
    """One line for a failed response or connection."""
    advice = f"set {MIRROR_VARIABLE} to a folder that has it, or put the file at {path}"
    if isinstance(error, urllib.error.HTTPError):
        return answered(error.code, address, denied=advice, gone=advice, busy=advice)
    return ConnectionError(f"{address} cannot be downloaded ({root_line(error)}); run again to resume, {advice}")


def _request(address: str, start: int) -> Any:
    """The response to a request for all bytes from ``start``. Raises what urllib raises."""
    headers = {"User-Agent": "fmbench", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except ValueError as error:
        raise urllib.error.URLError(f"no address: {error}") from error


def _transfer(address: str, part: BinaryIO, advance: Callable[[int, int | None], None]) -> bool:
    """Append the missing bytes to the partial file; returns whether it is complete. Raises HTTPError, or OSError when writing fails."""
    start = part.seek(0, os.SEEK_END)
    with _request(address, start) as answer:
        continued = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-")
        if start and not continued:
            start = 0
            part.seek(0)
            part.truncate()
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        advance(start, total)
        # read1 hands over what has arrived, so that a reset loses nothing.
        while piece := answer.read1(PIECE):
            part.write(piece)
            part.flush()
            start += len(piece)
            advance(start, total)
    return total is None or start == total


def _fill(address: str, path: Path, temporary: Path) -> None:
    """Complete the temporary file, with new connections as long as each brings new bytes."""
    fruitless = 0
    with progress_bars() as progress, temporary.open("ab") as part:
        bar = progress.add_task(f"download {path.name}", total=None)
        while True:
            before = part.seek(0, os.SEEK_END)
            try:
                if _transfer(address, part, lambda done, total: progress.update(bar, completed=done, total=total)):
                    return
                error: Exception = ConnectionError("the connection closed early")
            except urllib.error.HTTPError as answered:
                answered.close()
                if answered.code != 416:
                    raise _explain(answered, address, path) from answered
                # The part is longer than the file: it is another one.
                part.truncate(0)
                error = answered
            except (OSError, http.client.HTTPException) as broken:
                if is_disk_full(broken):
                    raise
                error = broken
            fruitless = fruitless + 1 if part.seek(0, os.SEEK_END) <= before else 0
            if fruitless >= FRUITLESS:
                raise _explain(error, address, path) from error
            time.sleep(0.2 * fruitless)


def _verify(file: RemoteFile, temporary: Path) -> None:
    """Raise ValueError, and delete the download, when its hash is not the pinned one."""
    if file.sha256 is None or (found := file_sha256(temporary)) == file.sha256:
        return
    temporary.unlink()
    advice = f"the download was deleted: run again, and if that does not help, check {MIRROR_VARIABLE} and proxies"
    raise ValueError(f"{file.address}: SHA-256 expected {file.sha256}, found {found}; {advice}")


def fetch_file(file: RemoteFile, folder: str) -> Path:
    """The path of a verified file in ``folder`` of the cache, downloaded on first use.

    Safe in several processes: one downloads, the others wait. A download that was interrupted, even by a kill, is resumed.
    Raises, each in one line, ValueError (wrong hash, damaged cache), FileNotFoundError (404), PermissionError (401, 403),
    ConnectionError (no network, other answers, broken off), OSError (cache not writable; errno ENOSPC when the disk is full).
    """
    from filelock import FileLock

    path = cache_root() / folder / file.filename
    temporary = path.with_name(f".{path.name}.part")
    try:
        with writing(path.parent, file.filename):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    _fill(file.address, path, temporary)
                    _verify(file, temporary)
                    os.replace(temporary, path)
                    return path
    except OSError as error:
        if is_disk_full(error):
            temporary.unlink(missing_ok=True)
        raise
    if file.sha256 is not None and (found := file_sha256(path)) != file.sha256:
        advice = "delete it and it is fetched again"
        raise ValueError(f"{path} is damaged: SHA-256 expected {file.sha256}, found {found}; {advice}")
    return path
