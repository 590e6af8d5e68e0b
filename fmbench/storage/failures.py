"""Messages in one line for failures of disk and network, shared by downloads and caches."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmbench.storage.cache import CACHE_VARIABLE
from fmbench.storage.readers import first_line

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, quota reached, file larger than the file system or the limits of the process allow."""
DEEPEST = 32
"""Number of causes of an error that are followed: a chain can be cyclic."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its chain of causes, the root last."""
    current: BaseException | None = error
    for _ in range(DEEPEST):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def root_line(error: BaseException) -> str:
    """The first line of the message of an error's root cause."""
    return first_line(list(causes(error))[-1])


def is_disk_full(error: BaseException) -> bool:
    """Whether an error or one of its causes means that the disk is full."""
    return any(isinstance(e, OSError) and e.errno in DISK_FULL for e in causes(error))


def disk_full(folder: Path | str, what: str, variable: str = CACHE_VARIABLE) -> OSError:
    """The one line for a full disk, errno ENOSPC: which folder, for what, and the variable or option that moves it elsewhere."""
    advice = f"free some, or set {variable} to a folder on another disk"
    return OSError(errno.ENOSPC, f"no space left in {folder} for {what}; {advice}")


@contextmanager
def writing(folder: Path, what: str, variable: str = CACHE_VARIABLE) -> Iterator[None]:
    """Context that turns an OSError of the system into one line: the folder, why nothing can be written there, and what moves it elsewhere.

    ``what`` names the content that did not fit on a full disk. Errors without an errno were raised with a message of their own and pass.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder, what, variable) from error
        if error.errno is None:
            raise
        reason = f"cannot write in {folder} ({error.strerror}); set {variable} to another folder"
        raise OSError(error.errno, reason) from error


def answered(status: int, what: str, *, denied: str, gone: str, busy: str) -> OSError:
    """The error for a failed response: PermissionError (401, 403), FileNotFoundError (404, 410), else ConnectionError.

    ``what`` names the requested file; ``denied``, ``gone`` and ``busy`` are the advice in each case.
    """
    if status in (401, 403):
        return PermissionError(f"{what} is refused ({status}); {denied}")
    if status in (404, 410):
        return FileNotFoundError(f"{what} is gone ({status}); {gone}")
    if status == 429:
        return ConnectionError(f"{what} answered 429 (too many requests); wait some minutes, or {busy}")
    return ConnectionError(f"{what} answered {status}; try later, or {busy}")
