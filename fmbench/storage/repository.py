"""Files of model repositories on the Hub: a commit is named, what it holds is listed and bounded, then fetched and checked.

A repository is ``hf:owner/name@revision``; with the 40 digits of a commit it is pinned, and what is on this machine needs no network.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fmbench.progress import progress_bars
from fmbench.storage.failures import disk_full
from fmbench.storage.files import file_sha256
from fmbench.storage.hub_client import LIBRARY, bar_class, client_errors, endpoint, status_of, talking

PREFIX = "hf:"
MOST_FILES = 10_000
"""Files of a repository: an entry has five."""
ATTEMPTS = 2
"""The client resumes a download that breaks off, but gives up at once when the connection is reset."""
_NAME = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_REPO = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./+-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """A repository of models and a revision: a branch, a tag, or a commit.

    Attributes:
        repo: ``owner/name``.
        revision: None for the newest commit of the default branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that it names the same bytes forever."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def parse_address(text: str) -> Address:
    """The address that ``hf:owner/name`` or ``hf:owner/name@revision`` writes. Raises ValueError in one line for anything else."""
    repo, separator, revision = text.removeprefix(PREFIX).partition("@")
    fine = text.startswith(PREFIX) and _REPO.fullmatch(repo) and not re.search(r"--|\.\.", repo) and len(repo) <= 150
    if not fine or (separator and (not _REVISION.fullmatch(revision) or ".." in revision)):
        raise ValueError(f"{text!r:.200} names no repository of the Hub; write hf:owner/name or hf:owner/name@revision")
    return Address(repo, revision if separator else None)


def commit_of(address: Address) -> str:
    """The 40 digits of the commit that an address names now; without a network, the one that it named when it was last asked for.

    Raises, in one line, what :func:`~fmbench.storage.hub_client.explain` makes of a failure.
    """
    if address.pinned:
        assert address.revision is not None
        return address.revision
    from huggingface_hub import HfApi

    with talking(str(address)):
        api = HfApi(endpoint=endpoint(), **LIBRARY)
        commit = str(api.resolve_revision(address.repo, revision=address.revision).resolved)
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"{commit!r:.60} is no commit")
    return commit


@dataclass(frozen=True)
class Listed:
    """What the Hub says about a file: its bytes, and the SHA-256 of what is stored in LFS, None where it is not told."""

    bytes: int
    sha256: str | None = None


def listing(address: Address) -> dict[str, Listed]:
    """The files of a pinned address by path, as they were listed on this machine before, or as the Hub lists them.

    Raises ValueError for more than :data:`MOST_FILES`, and in one line what the client raises.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    rows = _listed_before(address)
    with talking(str(address)):
        if rows is None:
            api = HfApi(endpoint=endpoint(), **LIBRARY)
            tree = api.list_repo_tree(address.repo, recursive=True, revision=address.revision)
            rows = list(islice((row for row in tree if isinstance(row, RepoFile)), MOST_FILES + 1))
        found = {str(row.path): Listed(int(row.size), row.lfs.sha256 if row.lfs else None) for row in rows}
    if len(rows) > MOST_FILES:
        raise ValueError(f"{address} holds more than {MOST_FILES:,} files, so it is no entry; nothing was downloaded")
    return found


def _listed_before(address: Address) -> list[Any] | None:
    """What the client keeps of an earlier listing, None where it has none."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return get_cached_repo_tree(address.repo, revision=address.revision)
    except CachedRepoTreeNotFoundError:
        return None


def snapshot_folder(address: Address) -> Path:
    """Where the files of a pinned address lie on this machine once they have been fetched."""
    from huggingface_hub import constants

    folder = f"models--{address.repo.replace('/', '--')}"
    return Path(constants.HF_HUB_CACHE).expanduser() / folder / "snapshots" / str(address.revision)


def is_here(address: Address, names: Collection[str]) -> bool:
    """Whether all of these files of a pinned address are on this machine."""
    folder = snapshot_folder(address)
    return all((folder / name).is_file() for name in names)


def discard(path: Path) -> None:
    """Take a file that is not what it should be out of the client's cache: its name in the snapshot and the content behind it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)


def fetch(address: Address, sizes: Mapping[str, int]) -> Path:
    """The folder that holds files of a pinned address, checked; no network is touched when all of them are on this machine.

    ``sizes`` are the files and the bytes that the Hub announced for each; no more are accepted. Files that arrived before a connection broke
    are not fetched again. Raises ValueError for bytes that are not those announced, which are deleted; OSError with errno ENOSPC before a
    download that does not fit on the disk; and in one line what the client raises.
    """
    folder = snapshot_folder(address)
    missing = [name for name in sizes if not (folder / name).is_file()]
    if missing:
        _require_space(address, sum(sizes[name] for name in missing))
        _download(address, missing, sum(sizes[name] for name in missing))
    for name in sizes:
        _check_announced(address, folder / name)
    return folder


def _require_space(address: Address, needed: int) -> None:
    """Raise OSError with errno ENOSPC when the disk of the client's cache has fewer free bytes than ``needed``."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE).expanduser()
    existing = next(folder for folder in (place, *place.parents) if folder.is_dir())
    if shutil.disk_usage(existing).free < needed:
        raise disk_full(place, f"the {needed:,} bytes of {address}", "HF_HUB_CACHE")


def _download(address: Address, names: Collection[str], most: int) -> None:
    from huggingface_hub import snapshot_download

    with progress_bars() as progress, talking(str(address)):
        bar = bar_class(progress, f"download {address.repo.partition('/')[2]}", most)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                snapshot_download(
                    address.repo,
                    revision=address.revision,
                    allow_patterns=sorted(names),
                    endpoint=endpoint(),
                    **LIBRARY,
                    tqdm_class=bar,  # type: ignore[arg-type]
                )
                return
            except client_errors() as error:
                if attempt == ATTEMPTS or status_of(error) is not None or isinstance(error, FileNotFoundError):
                    raise


def _check_announced(address: Address, path: Path) -> None:
    """Raise ValueError, and delete the file, when it is not what the Hub announced: the client names its content by that hash.

    The hash is a SHA-256 for what is stored in LFS, git's own for other files.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{address} has no {path.name}")
    announced = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", announced):
        kind, found = "SHA-256", file_sha256(path)
    elif re.fullmatch("[0-9a-f]{40}", announced):
        data = path.read_bytes()
        kind, found = "git hash", hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return  # a file system without links: the content stands under its own name
    if found != announced:
        discard(path)
        raise ValueError(
            f"{address}: {path.name} has {kind} {found}, and the Hub announced {announced}; the file was deleted: run again, "
            "and if that does not help, check HF_ENDPOINT"
        )
