"""Locations of entries: the bundled zoo, a folder, a method file. Listing imports neither torch nor any method."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fmbench import registry
from fmbench.records.aliases import canonical
from fmbench.records.metric import METRICS
from fmbench.records.names import check_entry_name, split_training, training_name
from fmbench.records.pins import Weights
from fmbench.records.recipe import Recipe, read
from fmbench.registry import UnknownName, nearest
from fmbench.storage.bundled import data_folder
from fmbench.storage.cache import cache_root
from fmbench.zoo import sources, weight_file

CHECKPOINT = ".checkpoint.pt"
"""Checkpoint of an unfinished training in the folder of its entry."""
CONDITIONAL = "-cond"
"""Suffix of the folder of a conditional entry after the name of its method."""
HERE = "here"
_NAME = re.compile(r"(?!\.)[^/\\]+/(?!\.)[^/\\]+")
"""``task/entry``: two names of folders, none of them hidden."""
LOCAL_ENTRIES = Path("entries")
"""Folder that ``fmbench train --method`` writes to, and that is searched for the weights of ``file.py:Class``."""


@dataclass(frozen=True)
class Entry:
    """A folder that holds ``recipe.toml`` and, once trained, its weights."""

    name: str
    folder: Path
    recipe: Recipe

    def training(self, index: int) -> Entry:
        """One training of the entry, counted from 0, under its own name, ``task/entry@1``. Raises ValueError for one that is not there."""
        try:
            recipe = self.recipe.training(index)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        return Entry(training_name(self.name, index), self.folder, recipe)

    @property
    def whole(self) -> str:
        """The name of the entry that a training belongs to; its own for an entry."""
        return split_training(self.name)[0]

    @property
    def trainings(self) -> list[Entry]:
        """Every training as an entry of its own; the entry itself where it has no weights."""
        return [self.training(index) for index in range(max(1, self.recipe.trainings))]

    @property
    def weights_path(self) -> Path | None:
        """The weight file, None for closed forms and for entries not trained yet."""
        return self.folder / self.recipe.weights.file if self.recipe.weights else None

    def read_header(self) -> weight_file.Header:
        """The header of the weight file, its size checked. Raises what :meth:`read_weights` raises, except for the hash."""
        pinned = self.recipe.weights
        if pinned is None:
            raise ValueError(f"{self.name} has no weights yet; make them with `fmbench train {self.folder}`")
        with _hint(self.folder):
            path = self.weights_here()
            weight_file.require_size(path, pinned)
            return weight_file.read_header(path)

    def read_weights(self) -> bytes:
        """The verified content of the weight file. Raises ValueError naming the hash expected and the hash found."""
        pinned = self.recipe.weights
        if pinned is None:
            raise ValueError(f"{self.name} has no weights yet; make them with `fmbench train {self.folder}`")
        with _hint(self.folder):
            return weight_file.read_pinned(self.weights_here(), pinned)

    def weights_here(self) -> Path:
        """The weight file beside the recipe; where there is none, that of the source the recipe names, downloaded on first use.

        Raises what :func:`fmbench.zoo.sources.fetch_weights` raises.
        """
        pinned = self.recipe.weights
        assert pinned is not None
        beside = self.folder / pinned.file
        return beside if pinned.source is None or beside.exists() else sources.fetch_weights(pinned)

    @property
    def where(self) -> str:
        """A description of where the weights are and whether they are on this machine; nothing is read or requested."""
        pins = self.recipe.pins
        if not pins:
            return "not trained yet" if self.recipe.net else "closed form, no weights"
        several = f"{len(pins)} trainings, " if len(pins) > 1 else ""
        places = [self._where(pinned) for pinned in pins]
        size = f"{several}{sum(pinned.bytes for pinned in pins) / 1e6:.2f} MB"
        if len(set(places)) == 1:
            return f"{size}, {places[0]}"
        return f"{size}, the first {places[0]}, {len(pins) - places.count(HERE)} of them not here"

    def _where(self, pinned: Weights) -> str:
        if (self.folder / pinned.file).is_file():
            return HERE
        if pinned.source is None:
            return f"missing in {self.folder}"
        here = HERE if sources.place(pinned) else f"not on this machine: fmbench fetch {self.whole}"
        return f"{pinned.source.partition('@')[0]}, {here}"


@contextmanager
def _hint(folder: Path) -> Iterator[None]:
    """Context in which errors in the folder of an unfinished training say how to finish it."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if not (folder / CHECKPOINT).is_file():
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(
            f"{error}; a training was interrupted in {folder}: run the same `fmbench train` command again to finish it"
        ) from error


def open_folder(folder: Path, name: str | None = None) -> Entry:
    """The entry in a folder; its name is ``task/folder`` unless given.

    Raises FileNotFoundError or ValueError in one line: no recipe or a bad one, or a folder whose name cannot be an entry's.
    """
    with _hint(folder):
        recipe = read(folder / "recipe.toml")
    if name is None:
        place = folder.resolve()
        is_bundled = place.parent.parent in (data_folder("zoo").resolve(), imported_zoo().resolve())
        entry = place.name if is_bundled else check_entry_name(place.name, "the folder of an entry")
        name = f"{place.parent.name if is_bundled else recipe.task}/{entry}"
    return Entry(name, folder, recipe)


def imported_zoo() -> Path:
    """The folder of entries that were imported in a bundle, laid out like the zoo."""
    return cache_root() / "zoo"


def _zoo() -> dict[str, Path]:
    """Name -> folder, of what comes with the package, and of imported entries with other names."""
    roots = (imported_zoo(), data_folder("zoo"))
    found = {"/".join(path.parts[-3:-1]): path.parent for root in roots for path in root.glob("*/*/recipe.toml")}
    return {name: found[name] for name in sorted(found, key=lambda name: name.split("/"))}


def locate(spec: str) -> tuple[Path, str | None]:
    """The folder that ``task/entry`` of the zoo or a path names, and its name where it is bundled; nothing in it is read.

    Raises UnknownName, FileNotFoundError for a folder without a recipe, ValueError for a string that is both and not the same.
    """
    if not spec.strip() or "\0" in spec:
        raise ValueError(f"{spec!r} names no entry; give task/entry or a folder")
    folder, bundled = Path(spec), data_folder("zoo") / spec
    is_folder, is_name = (folder / "recipe.toml").is_file(), bool(_NAME.fullmatch(spec))
    if is_name and not (bundled / "recipe.toml").is_file():
        bundled = imported_zoo() / spec
    is_bundled = is_name and (bundled / "recipe.toml").is_file()
    if is_bundled and is_folder and folder.resolve() != bundled.resolve():
        raise ValueError(
            f"{spec!r} is both a zoo entry and a folder here; write ./{spec} for the folder, {bundled} for the entry"
        )
    if is_bundled:
        return bundled, spec
    if is_folder:
        return folder, None
    if folder.is_dir():
        with _hint(folder):
            raise FileNotFoundError(f"{spec} holds no recipe.toml, so it is no entry")
    raise UnknownName(nearest("entry", spec, _zoo()))


def located(spec: str) -> tuple[Path, str | None, int | None]:
    """:func:`locate` for a string that may end in ``@K``, one training of the entry; K is None where it does not.

    Another name of an entry or training (:mod:`fmbench.records.aliases`) leads to it, unless a folder has that name.
    """
    if (Path(spec) / "recipe.toml").is_file():
        return *locate(spec), None
    entry, index = split_training(canonical(spec))
    if index is None:
        return *locate(entry), None
    return *locate(entry), index


def find(spec: str) -> Entry:
    """The entry of ``task/entry`` or of a folder, or its training ``@K``. Raises what :func:`locate` and :func:`open_folder` raise."""
    folder, name, index = located(spec)
    entry = open_folder(folder, name)
    return entry if index is None else entry.training(index)


def kebab(name: str) -> str:
    """``MyMethod`` -> ``my-method``, the entry name of a class."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def trained_here(class_name: str, task: str) -> list[Path]:
    """Folders below :data:`LOCAL_ENTRIES` of a user's class, conditional or not; ``task`` may be ``*``."""
    names = (kebab(class_name), kebab(class_name) + CONDITIONAL)
    return sorted(p.parent for name in names for p in LOCAL_ENTRIES.glob(f"{task}/{name}/recipe.toml"))


def list_entries(task: str | None = None, division: str | None = None) -> list[str]:
    """Names of the bundled entries that can be ranked, optionally of one task or division; feature extractors are left out."""
    names = [name for name in _zoo() if task is None or name.split("/")[0] == task]
    wanted = (division,) if division else ("closed", "open")
    return [name for name in names if read(_zoo()[name] / "recipe.toml").division in wanted]


def list_methods() -> list[str]:
    """Names of the registered methods."""
    return list(registry.METHODS.all())


def list_tasks() -> list[str]:
    """Names of the registered tasks."""
    return list(registry.TASKS.all())


def list_metrics() -> list[str]:
    """Names of the registered metrics."""
    return list(METRICS)


def list_all() -> list[str]:
    """Names of the bundled entries, feature extractors included."""
    return list(_zoo())
