"""Where the weights of an entry lie: beside its recipe, or in a repository of the Hub that the recipe pins. No torch."""

from __future__ import annotations

from pathlib import Path

from fmbench.records.recipe import Weights
from fmbench.storage.files import file_sha256
from fmbench.storage.repository import Address, Listed, discard, fetch, is_here, listing, parse_address, snapshot_folder

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy")
"""Files that can hold a pickle, which is a program: reading one runs it."""


def require_safe(file: str, where: str) -> None:
    """Raise ValueError in one line, which says what to do, for weights that are not in safetensors."""
    if file.endswith(PICKLES):
        raise ValueError(
            f"{where}: {file} can hold a pickle, which runs as a program when it is read, so it is refused; if you trust it: "
            f"`fmbench convert {file} --i-trust-this-file`"
        )
    if not file.endswith(".safetensors"):
        raise ValueError(f"{where}: weights are read from .safetensors only, and {file} is none")


def require_announced(found: Listed | None, pinned: Weights, address: Address) -> None:
    """Raise ValueError or FileNotFoundError before a download when the Hub announces other weights than a recipe pins."""
    if found is None:
        raise FileNotFoundError(f"{address} has no {pinned.file}, which its recipe pins")
    if found.bytes != pinned.bytes:
        raise ValueError(
            f"{address}: {pinned.file} has {found.bytes:,} bytes, and the recipe pins {pinned.bytes:,}; nothing was downloaded"
        )
    if found.sha256 not in (None, pinned.sha256):
        raise ValueError(
            f"{address}: {pinned.file} has SHA-256 {found.sha256}, and the recipe pins {pinned.sha256}; nothing was downloaded"
        )


def require_pinned(path: Path, pinned: Weights, address: Address) -> None:
    """Raise ValueError, and delete the download, when it is not what a recipe pins; the hash expected and the hash found are shown."""
    if (found := file_sha256(path)) != pinned.sha256:
        discard(path)
        raise ValueError(
            f"{address}: SHA-256 of {pinned.file} expected {pinned.sha256}, found {found}; it was removed from the cache"
        )


def place(pinned: Weights) -> Path | None:
    """Where weights with a source lie on this machine; None when they have none, or are not here yet."""
    if pinned.source is None:
        return None
    address = parse_address(pinned.source)
    return snapshot_folder(address) / pinned.file if is_here(address, [pinned.file]) else None


def fetch_weights(pinned: Weights) -> Path:
    """The weight file from the source that a recipe names, downloaded on first use, every byte checked.

    Raises ValueError in one line for other bytes than pinned, and what :func:`fmbench.storage.repository.fetch` raises.
    """
    assert pinned.source is not None
    address = parse_address(pinned.source)
    if not is_here(address, [pinned.file]):
        require_announced(listing(address).get(pinned.file), pinned, address)
    path = fetch(address, {pinned.file: pinned.bytes}) / pinned.file
    require_pinned(path, pinned, address)
    return path
