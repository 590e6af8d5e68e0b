"""A bundle: entries, datasets, extractors and features of reference images in one zip file, for a machine that has no network.

``manifest.json`` lists every file with its bytes and its SHA-256. An import unpacks into a hidden folder of the cache, checks everything there,
and moves it to its place only when all of it is right; what has a hash of its own (weights, pixels, extractors) is checked against that too.
Features of reference images, from which reference statistics are computed, have no hash: they are imported unchecked, or left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmbench.features import builders
from fmbench.progress import progress_bars
from fmbench.records.names import check_entry_name, check_name
from fmbench.storage import archives
from fmbench.storage.cache import cache_root
from fmbench.storage.failures import disk_full, writing
from fmbench.storage.files import file_sha256
from fmbench.storage.readers import MEBIBYTE, first_line, shown, unique_keys
from fmbench.storage.repository import Address, snapshot_folder
from fmbench.tasks.hub_data import open_arrays
from fmbench.version import __version__
from fmbench.zoo import catalogue, hub
from fmbench.zoo.machine import CACHE, REPOSITORIES, ZOO, Need, known_splits
from fmbench.zoo.sources import require_safe

MANIFEST, SCHEMA = "manifest.json", 1
LARGEST_MANIFEST = 16 * MEBIBYTE
_PART = r"[A-Za-z0-9_+=][\w.+=-]*"
_ENTRY_FILE = rf"(?:recipe\.toml|README\.md|{_PART}\.png|{_PART}\.safetensors)"
_FEATURES = re.compile(rf"{CACHE}/features/[0-9a-f]{{64}}\.(?:f32|json)", re.ASCII)
_PLACES = (
    re.compile(rf"{ZOO}/{_PART}/{_PART}/{_ENTRY_FILE}", re.ASCII),
    re.compile(rf"{REPOSITORIES}/{_PART}/{_PART}/[0-9a-f]{{40}}/{_ENTRY_FILE}", re.ASCII),
    re.compile(rf"{CACHE}/datasets/{_PART}/{_PART}/(?:images\.npy|labels\.npy|source\.json)", re.ASCII),
    re.compile(rf"{CACHE}/weights/{_PART}", re.ASCII),
    _FEATURES,
)
"""Paths that a bundle may hold; nothing else is unpacked."""


@dataclass(frozen=True)
class Imported:
    """The outcome of an import: paths in the bundle that were added, that existed already, and that have no hash to check."""

    added: tuple[str, ...]
    there: tuple[str, ...]
    unverified: tuple[str, ...]


def export(needs: Iterable[Need], target: Path) -> dict[str, Any]:
    """Fetch what is needed and write the bundle, atomically; returns its manifest. The same content gives the same bytes.

    Raises, in one line, what fetching raises, FileExistsError for a target that is there, and OSError when it cannot be written.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; name another file, or delete it")
    files: dict[str, Path] = {}
    for need in needs:
        files.update(need.fetch())
    if not files:
        raise ValueError("nothing to bundle: none of these names needs a file")
    rows = [{"path": path, "bytes": f.stat().st_size, "sha256": file_sha256(f)} for path, f in sorted(files.items())]
    for row in rows:
        _require_place(row["path"], str(target))
    manifest = {"schema": SCHEMA, "fmbench": __version__, "files": rows}
    with writing(target.parent, str(target), "a path"):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as raw, zipfile.ZipFile(raw, "w") as archive:
                archive.writestr(_info(MANIFEST), json.dumps(manifest, indent=1))
                for path, file in sorted(files.items()):
                    with file.open("rb") as source, archive.open(_info(path), "w", force_zip64=True) as member:
                        shutil.copyfileobj(source, member, archives.PIECE)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return manifest


def _info(name: str) -> zipfile.ZipInfo:
    """The zip entry of a file: uncompressed, because weights do not compress, and without a date."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _require_place(path: str, where: str) -> None:
    """Raise ValueError for a path that a bundle may not hold."""
    if not any(place.fullmatch(path) for place in _PLACES) or ".." in path or len(path) > 400:
        raise ValueError(f"{where}: {shown(path)} is no place in a bundle; nothing was imported")


def load(source: Path, features: bool = True) -> Imported:
    """Import a bundle into the cache of this machine and the client's, after everything in it has been checked.

    ``features`` False leaves out features of reference images, which cannot be checked.

    Raises FileNotFoundError, ValueError in one line for whatever is not as a bundle must be or would replace something else, and OSError when
    the disk is full; then nothing has changed.
    """
    if not source.is_file():
        raise FileNotFoundError(f"no bundle at {source}")
    with writing(cache_root(), str(source)):
        cache_root().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".bundle.", suffix=".tmp", dir=cache_root()))
    try:
        paths = _unpack(source, folder, features)
        _check(folder, paths, source)
        return _place(folder, paths, source)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(source: Path, folder: Path, features: bool) -> list[str]:
    """The wanted files of a bundle below ``folder``, with the hashes of its manifest; their paths."""
    try:
        with archives.opened(source) as (archive, infos):
            members = {info.filename: info for info in infos}
            rows = _manifest(archive, members)
            wanted = [path for path in rows if features or not _FEATURES.fullmatch(path)]
            needed = sum(members[path].file_size for path in wanted)
            if shutil.disk_usage(folder).free < needed:
                raise disk_full(folder.parent, f"the {needed:,} bytes of {source}")
            with progress_bars() as progress, writing(folder.parent, str(source)):
                for path in progress.track(wanted, description="unpack"):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    found = archives.copy_member(archive, members[path], folder / path)
                    if found != rows[path]:
                        raise ValueError(f"{path} has SHA-256 {found}, and its manifest says {rows[path]}")
            return wanted
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError) as error:
        raise ValueError(f"{source} is no bundle: {first_line(error)}; nothing was imported") from None
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{source} is damaged: {first_line(error)}; nothing was imported") from None


def _manifest(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, str]:
    """Path -> SHA-256 of a bundle's manifest, which must name every file of it, each in a place that a bundle may have."""
    info = members.get(MANIFEST)
    if info is None or info.file_size > LARGEST_MANIFEST:
        raise ValueError(f"it has no {MANIFEST} of at most {LARGEST_MANIFEST // MEBIBYTE} MiB")
    content = json.loads(archives.read_member(archive, info), object_pairs_hook=unique_keys)
    if (
        not isinstance(content, dict)
        or content.get("schema") != SCHEMA
        or set(content) != {"schema", "fmbench", "files"}
    ):
        schema = content.get("schema") if isinstance(content, dict) else None
        raise ValueError(f"its manifest is of schema {schema!r:.40}, and this version reads {SCHEMA}")
    rows: dict[str, str] = {}
    for row in content["files"] if isinstance(content["files"], list) else [content["files"]]:
        if not isinstance(row, dict) or set(row) != {"path", "bytes", "sha256"} or not isinstance(row["path"], str):
            raise ValueError(f"its manifest has a row that is none: {row!r:.100}")
        path, size, digest = row["path"], row["bytes"], row["sha256"]
        if path in rows:
            raise ValueError(f"its manifest has {shown(path)} twice")
        _require_place(path, MANIFEST)
        member = members.get(path)
        if member is None or member.file_size != size:
            raise ValueError(
                f"{path} has {member.file_size if member else 'no'} bytes, and its manifest says {size!r:.40}"
            )
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"{path} is a link or a device")
        rows[path] = digest
    if extra := set(members) - set(rows) - {MANIFEST}:
        raise ValueError(f"it holds {shown(min(extra))}, which its manifest does not name")
    return rows


def _check(folder: Path, paths: Iterable[str], source: Path) -> None:
    """Raise ValueError for entries, extractors and datasets that do not match their own hashes."""
    _check_datasets(folder, {folder / path for path in paths if path.startswith(f"{CACHE}/datasets/")}, source)
    pins = {file.filename: file.sha256 for file in builders.FILES.values()}
    for path in paths:
        parts = path.split("/")
        if parts[:2] == [CACHE, builders.WEIGHTS] and pins.get(parts[2]) != file_sha256(folder / path):
            raise ValueError(f"{source}: {path} is not the file of an extractor; nothing was imported")
        if parts[-1] == hub.RECIPE or (parts[-1].endswith(".safetensors") and parts[0] != CACHE):
            _check_entry((folder / path).parent, parts, source)


def _check_datasets(folder: Path, files: Collection[Path], source: Path) -> None:
    """Raise ValueError for a folder of arrays that no task reads, or whose pixels are not those that are pinned."""
    known = known_splits() if files else {}
    for place in sorted({file.parent for file in files}):
        relative = place.relative_to(folder / CACHE)
        pinned = known.get(cache_root() / relative)
        if pinned is None:
            raise ValueError(f"{source}: {relative} is no dataset of this version; nothing was imported")
        try:
            open_arrays(place, *pinned)
        except ValueError as error:
            reason = str(error).partition("; ")[0].replace(str(place), str(relative))
            raise ValueError(f"{source}: {reason}; nothing was imported") from None


def _check_entry(folder: Path, parts: list[str], source: Path) -> None:
    """Raise ValueError for an entry that cannot be read, whose weights are not those it pins, or in the folder of another task."""
    where = "/".join(parts[:-1])
    try:
        for part in parts[1:-1]:
            check_name(part, "a folder")
        entry = catalogue.open_folder(folder, where.removeprefix(f"{ZOO}/"))
        if parts[0] == ZOO and parts[1] != entry.recipe.task:
            raise ValueError(f"it is for task {entry.recipe.task}")
        for one, pinned in zip(entry.trainings, entry.recipe.pins, strict=False):
            require_safe(pinned.file, where)
            if not (folder / pinned.file).is_file():
                raise FileNotFoundError(f"{pinned.file} is missing")
            one.read_weights()
    except (ValueError, FileNotFoundError) as error:
        reason = str(error).replace(f"{folder}/", "")
        raise ValueError(f"{source}: {where} is no entry ({reason}); nothing was imported") from None


def _target(path: str) -> Path:
    """The path on this machine for a file of a bundle."""
    place, *parts = path.split("/")
    if place == ZOO:
        return catalogue.imported_zoo().joinpath(*parts)
    if place == REPOSITORIES:
        return snapshot_folder(Address("/".join(parts[:2]), parts[2])) / parts[3]
    return cache_root().joinpath(*parts)


def _place(folder: Path, paths: Iterable[str], source: Path) -> Imported:
    """Move checked files to their paths; files that exist already, in the zoo of the package too, must be the same."""
    added, there = [], []
    for path in paths:
        targets = [catalogue.data_folder(ZOO).joinpath(*path.split("/")[1:])] if path.startswith(f"{ZOO}/") else []
        if targets and not (targets[0].parent / hub.RECIPE).is_file():
            check_entry_name(path.split("/")[2], "an imported entry")
            targets = []
        taken = next((target for target in (*targets, _target(path)) if target.exists()), None)
        if taken is None and not targets:
            added.append(path)
        elif (
            taken is not None
            and file_sha256(taken) != file_sha256(folder / path)
            and not path.endswith((".md", ".json", ".png"))
        ):
            raise ValueError(f"{source}: {path} is at {taken} already, with other content; nothing was imported")
        else:
            there.append(path)
    for path in added:
        target = _target(path)
        with writing(target.parent, str(source)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / path, target)
    return Imported(tuple(added), tuple(there), tuple(path for path in added if _FEATURES.fullmatch(path)))
