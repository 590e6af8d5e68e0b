"""Files of Hub datasets, from a local folder or through ``huggingface_hub``; every failure is one line.

``FMBENCH_DATA=/folder`` reads ``/folder/datasets/<owner>/<name>/<file>`` and touches no network. Otherwise
``HF_ENDPOINT`` (a mirror), ``HF_HUB_CACHE``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean to the client.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fmbench.storage import hub_client
from fmbench.storage.failures import answered, causes, disk_full, is_disk_full, root_line
from fmbench.storage.files import file_sha256
from fmbench.storage.hub_client import LIBRARY, bar_class, client_errors, quiet, status_of

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


def _explain(error: Exception, what: str, endpoint: str) -> OSError:
    """One line for a failure of the client: what failed, why, what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    status, reason = status_of(error), root_line(error)
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


def _download(repo: str, revision: str, filename: str, what: str, endpoint: str, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    bar = bar_class(progress, f"download {repo.partition('/')[2]}/{Path(filename).name}")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with quiet():
                path = hf_hub_download(
                    repo,
                    filename,
                    repo_type="dataset",
                    revision=revision,
                    endpoint=endpoint,
                    **LIBRARY,
                    tqdm_class=bar,  # type: ignore[arg-type]
                )
            return Path(path)
        except client_errors() as error:
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
    endpoint = hub_client.endpoint()
    what = f"datasets/{repo}/{filename} at {revision[:12]}"
    path = _download(repo, revision, filename, what, endpoint, progress)
    source = SourceFile(path, f"{endpoint}/datasets/{repo}/resolve/{revision}/{filename}", downloaded=True)
    _check_announced(source)
    return source
