"""What every use of ``huggingface_hub`` here shares: the endpoint, a progress bar with a limit, one line for whatever goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fmbench.storage.failures import answered, causes, disk_full, is_disk_full, root_line
from fmbench.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress

LIBRARY: dict[str, Any] = {"library_name": "fmbench", "library_version": __version__}
"""What the client says it works for: the Hub counts downloads by it."""
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class TooMuch(ValueError):
    """More than was announced or is allowed arrives."""


def endpoint() -> str:
    """The address of the Hub: ``HF_ENDPOINT``, a mirror, or the public one; without a slash at the end."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def bar_class(progress: Progress, description: str, most: int | None = None) -> type:
    """What the client asks of a tqdm class, drawn by rich; of its bars that count bytes only one is drawn.

    With ``most``, a download is stopped by :class:`TooMuch` as soon as a bar has counted more bytes than that.
    """

    class Bar:
        format_dict: dict[str, Any] = {}  # noqa: RUF012 - read by the client, never written

        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, desc: str = "", **facts: Any) -> None:
            self.n, self.total, self.bytes = initial, total, facts.get("unit") == "B"
            hidden = desc.startswith(("Downloading bytes", "Fetching"))
            self.task = None if hidden else progress.add_task(description, total=total, completed=initial)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if most is not None and self.bytes and self.n > most:
                raise TooMuch(f"more than the announced {most:,} bytes arrive; the download was stopped")
            self.refresh()

        def refresh(self) -> None:
            if self.task is not None:
                progress.update(self.task, completed=self.n, total=self.total)

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            pass

        set_description = set_description_str = set_postfix_str

        def close(self) -> None:
            if self.task is not None:
                progress.stop_task(self.task)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    return Bar


def client_errors() -> tuple[type[Exception], ...]:
    """What a broken connection raises: the client has changed its HTTP library twice, but its own error derives from it."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)  # type: ignore[return-value]


def status_of(error: BaseException) -> int | None:
    """The status of the answer that an error came from, None where there was none."""
    responses = (getattr(e, "response", None) for e in causes(error))
    return next((r.status_code for r in responses if r is not None), None)


def explain(error: Exception, what: str) -> Exception:
    """One line for a failure of the client about ``what``, a repository and its revision: what failed, why, what to do.

    FileNotFoundError for what is not there, PermissionError for what needs a token, ConnectionError for everything between, OSError with errno
    ENOSPC for a full disk.
    """
    from huggingface_hub import constants, errors

    def comes_from(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in causes(error))

    where, status, reason = endpoint(), status_of(error), root_line(error)
    if is_disk_full(error):
        return disk_full(constants.HF_HUB_CACHE, what, "HF_HUB_CACHE")
    if comes_from(errors.GatedRepoError):
        return PermissionError(f"{what} is gated: ask for access at {where}, then {LOGIN}")
    if comes_from(errors.RepositoryNotFoundError):
        return FileNotFoundError(f"{where} has no {what}, or it is private; check the name, or {LOGIN}")
    if comes_from(errors.RevisionNotFoundError):
        return FileNotFoundError(
            f"{what}: {where} has the repository and no such revision; name a branch, tag or commit"
        )
    if comes_from(errors.OfflineModeIsEnabled):
        return ConnectionError(f"{what} is not on this machine, and HF_HUB_OFFLINE is set; fetch it once while online")
    if status == 412:
        return ConnectionError(f"{what} has changed meanwhile; run again")
    if status is not None and status >= 400:
        busy = "set HF_TOKEN or HF_ENDPOINT (a mirror)"
        return answered(status, f"{where}: {what}", denied=LOGIN, gone="check the revision", busy=busy)
    unreachable = any(type(e).__name__ == "ConnectError" for e in causes(error))
    if unreachable or comes_from(errors.LocalEntryNotFoundError, errors.RevisionResolutionError):
        return ConnectionError(
            f"{what} is not on this machine and {where} cannot be reached ({reason}); go online, or set HF_ENDPOINT to a mirror"
        )
    if isinstance(error, (ValueError, KeyError, TypeError, AssertionError)):
        return ConnectionError(
            f"{where} answers about {what} as no Hub does ({reason}); run again, or check HF_ENDPOINT"
        )
    return ConnectionError(f"{what}: the connection to {where} broke off ({reason}); run again")


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the client prints no warnings, and draws bars on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    level, drawn = logging.get_verbosity(), sys.stderr.isatty() or are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not drawn:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not drawn:
            enable_progress_bars()


@contextmanager
def talking(what: str, writing: bool = False) -> Iterator[None]:
    """Inside, only the client is called, quietly; whatever it raises becomes the one line of :func:`explain`.

    With ``writing``, an answer that refuses the user speaks of the token.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        if (cause := next((e for e in causes(error) if isinstance(e, TooMuch)), None)) is not None:
            raise TooMuch(f"{what}: {cause}") from None
        if writing and (status := status_of(error)) in (401, 403):
            raise PermissionError(
                f"{what}: {endpoint()} lets you not write there ({status}); {LOGIN} to one that may write"
            ) from error
        raise explain(error, what) from error
