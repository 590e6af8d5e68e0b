"""The file beside a result: the raw values behind its intervals, and the witnesses of its samples. No torch.

::

    {schema, codes: [...], parts: {draw or flow:name: {witness: {sha256, rows, projections}, groups: {metric: [value, ...]}}}}

``parts`` has the names of the cells of the result (:mod:`fmbench.records.file`), ``groups`` the value of a metric without group 0 of the
rows, without group 1, and so on; values for every evaluation seed stand in the cells. The file lies beside ``<entry>.json``, which names its
hash, as ``<entry>.<first digits of the hash>.sidecar``. No reader of ``*.json`` takes it for a result, and a result is whole without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, field

from fmbench.records.conditions import Closed, Hash, Number, Positive
from fmbench.records.file import lines
from fmbench.records.typed import law, plain, require
from fmbench.storage.files import sha256, write_atomic
from fmbench.storage.readers import MEBIBYTE, first_line, read_bytes

SCHEMA = 1
ENDING = ".sidecar"
DIGITS = 8
"""Hexadecimal digits of its hash in the name of a file."""
LARGEST = 16 << 20
"""Bytes of a file."""
MOST = 100_000
"""Values behind one number."""


class Witness(Closed, frozen=True):
    """Fingerprint of a few samples, or values of a field, to check whether another computer reproduces them.

    Attributes:
        sha256: of their float32 bytes.
        rows: how many.
        projections: fixed random sums of all their numbers, to float32 precision.
    """

    sha256: Hash
    rows: Positive
    projections: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=1000)]


Values = Annotated[tuple[Number, ...], Meta(min_length=1, max_length=MOST)]


class Part(Closed, frozen=True, omit_defaults=True):
    """The content for one draw or flow; ``groups`` are values of a metric with each group of rows left out, in their order."""

    witness: Witness | None = None
    groups: dict[str, Values] = field(default_factory=dict)


class Sidecar(Closed, frozen=True):
    """The content of a file. ``codes`` are hashes of earlier code of the model, whose witnesses were reproduced."""

    schema: int
    parts: dict[str, Part]
    codes: tuple[Hash, ...] = ()

    def __post_init__(self) -> None:
        law(self.schema == SCHEMA, f"schema must be {SCHEMA}, got {self.schema}")


def text_of(parts: Mapping[str, Part], codes: tuple[str, ...] = ()) -> str:
    """The text of a file, a line for every metric; empty when there is nothing to store.

    Raises ValueError in one line for values that no file may hold.
    """
    told = {name: part for name, part in parts.items() if part != Part()}
    if not told and not codes:
        return ""
    content = msgspec.to_builtins(Sidecar(SCHEMA, told, codes))
    require(plain(content), Sidecar)
    text = lines(content, 4) + "\n"
    law(
        len(text) <= LARGEST,
        f"its sidecar takes {len(text) / MEBIBYTE:.1f} MiB, and at most {LARGEST / MEBIBYTE:g} are read",
    )
    return text


def path_of(result: Path, sha: str) -> Path:
    """The path of the sidecar of a result file."""
    return result.with_name(f"{result.stem}.{sha[:DIGITS]}{ENDING}")


def read(result: Path, sha: str) -> Sidecar:
    """The sidecar that a result file names. Raises ValueError in one line when it is missing, damaged or another."""
    path = path_of(result, sha)
    try:
        data = read_bytes(path, LARGEST, "sidecar")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing, which holds the raw values and witnesses of {result.name}") from None
    if sha256(data) != sha:
        raise ValueError(f"{path} is not the sidecar that {result.name} names: its SHA-256 is another")
    try:
        return msgspec.json.decode(data, type=Sidecar)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no sidecar: {first_line(error)}") from None


def write(result: Path, text: str) -> str:
    """Write the sidecar of a result file, which is to be written after it, and return its hash."""
    sha = sha256(text.encode())
    write_atomic(path_of(result, sha), text)
    return sha


def tidy(result: Path, sha: str) -> None:
    """Remove sidecars of a result file other than the one it names now; ``sha`` is empty when it names none."""
    kept = path_of(result, sha).name if sha else ""
    own = re.compile(re.escape(result.stem) + rf"\.[0-9a-f]{{{DIGITS}}}" + re.escape(ENDING))
    for path in result.parent.iterdir():
        if path.name != kept and own.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
