"""Files of Hub datasets, from a local folder or through ``huggingface_hub``; every failure is one line.

``FMBENCH_DATA=/folder`` reads ``/folder/datasets/<owner>/<name>/<file>`` and touches no network. Otherwise
``HF_ENDPOINT`` (a mirror), ``HF_HUB_CACHE``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean to the client.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbench.storage.failures import answered, causes, disk_full, is_disk_full, root_line
from fmbench.storage.files import file_sha256

if TYPE_CHECKING:
    from rich.progress import Progress

DATA_VARIABLE = "FMBENCH_DATA"
ATTEMPTS = 2
"""The client resumes a download that breaks off, but gives up at once when the connection is reset."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read a dataset from.

    Attributes:
        path: where it lies.
        origin: where it came from, for messages and provenance.
        downloaded: whether it is the client's copy, which may be thrown away, or the user's own.
    """

    path: Path
    origin: str
    downloaded: bool

    def discard(self) -> str:
        """Delete a download that turned out wrong, so that the next run fetches it again; say in words what to do."""
        if not self.downloaded:
            return "replace the file"
        blob = self.path.resolve()
        self.path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        return "the download was deleted: run again, and if that does not help, check HF_ENDPOINT"


def _bar_class(progress: Progress, description: str) -> type:
    """What the client asks of a tqdm class, drawn by rich."""

    class Bar:
        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
            self.n, self.total = initial, total
            self.task = progress.add_task(description, total=total, completed=initial)

        def update(self, n: int = 1) -> None:
            self.n += n
            self.refresh()

        def refresh(self) -> None:
            progress.update(self.task, completed=self.n, total=self.total)

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            pass

        def close(self) -> None:
            progress.stop_task(self.task)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    return Bar


def _explain(error: Exception, what: str, endpoint: str) -> OSError:
    """One line for a failure of the client: what failed, why, what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    responses = (getattr(e, "response", None) for e in causes(error))
    status = next((r.status_code for r in responses if r is not None), None)
    reason = root_line(error)
    local = f"{DATA_VARIABLE} to a folder laid out like the Hub"
    if is_disk_full(error):
        return disk_full(constants.HF_HUB_CACHE, what, "HF_HUB_CACHE")
    if status is not None and status >= 400:
        return answered(
            status,
            f"{endpoint}/{what}",
            denied="it is public, so check HF_TOKEN and HF_ENDPOINT",
            gone=f"the pinned revision has vanished: update flow-matching-bench, or set {local}",
            busy="set HF_TOKEN or HF_ENDPOINT (a mirror)",
        )
    if isinstance(error, LocalEntryNotFoundError):
        advice = f"go online once, set HF_ENDPOINT to a mirror, or {local}"
        return ConnectionError(f"{what} is not cached and {endpoint} cannot be reached ({reason}); {advice}")
    return ConnectionError(f"download of {what} from {endpoint} broke off ({reason}); run again")


def _client_errors() -> tuple[type[Exception], ...]:
    """What a broken connection raises: the client has changed its HTTP library twice, but its own error derives from it."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)  # type: ignore[return-value]


def _download(repo: str, revision: str, filename: str, what: str, endpoint: str, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    bar = _bar_class(progress, f"download {repo.partition('/')[2]}/{Path(filename).name}")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            path = hf_hub_download(
                repo,
                filename,
                repo_type="dataset",
                revision=revision,
                endpoint=endpoint,
                library_name="fmbench",
                tqdm_class=bar,  # type: ignore[arg-type]
            )
            return Path(path)
        except _client_errors() as error:
            answered = any(getattr(e, "response", None) is not None for e in causes(error))
            final = answered or is_disk_full(error) or isinstance(error, LocalEntryNotFoundError)
            if final or attempt == ATTEMPTS:
                raise _explain(error, what, endpoint) from error
    raise AssertionError("the last attempt returns or raises")


def _check_announced(source: SourceFile) -> None:
    """Compare a download with the SHA-256 that the Hub announced for it, which is the name of the client's blob."""
    announced = source.path.resolve().name
    if not re.fullmatch("[0-9a-f]{64}", announced):
        return
    if (found := file_sha256(source.path)) != announced:
        raise ValueError(f"{source.origin}: SHA-256 expected {announced}, found {found}; {source.discard()}")


def fetch(repo: str, revision: str, filename: str, progress: Progress) -> SourceFile:
    """A file of a dataset repository at a commit; no network is touched when ``FMBENCH_DATA`` or the client has it.

    Raises, each in one line, FileNotFoundError (not in the folder, 404), PermissionError (401, 403), ConnectionError
    (429, 5xx, broken off, offline), OSError with errno ENOSPC, ValueError (bytes unlike the SHA-256 announced).
    """
    if folder := os.environ.get(DATA_VARIABLE):
        path = Path(folder).expanduser() / "datasets" / repo / filename
        if not path.is_file():
            missing = f"{DATA_VARIABLE}={folder} has no datasets/{repo}/{filename}"
            raise FileNotFoundError(f"{missing}; add it, or unset {DATA_VARIABLE} to download it")
        return SourceFile(path, str(path), downloaded=False)
    from huggingface_hub import constants

    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    what = f"datasets/{repo}/{filename} at {revision[:12]}"
    path = _download(repo, revision, filename, what, endpoint, progress)
    source = SourceFile(path, f"{endpoint}/datasets/{repo}/resolve/{revision}/{filename}", downloaded=True)
    _check_announced(source)
    return source
