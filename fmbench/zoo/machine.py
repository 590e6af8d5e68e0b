"""The files that work offline needs: weights of entries, datasets, extractors, features of reference images; each by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fmbench.features import builders, store
from fmbench.records import protocol
from fmbench.registry import EXTRACTORS, TASKS
from fmbench.storage.bundled import list_benchmarks
from fmbench.storage.cache import cache_root
from fmbench.storage.download import fetch_file
from fmbench.storage.repository import PREFIX
from fmbench.tasks import hub_data
from fmbench.tasks.base import Task
from fmbench.zoo import catalogue, hub
from fmbench.zoo.extractors import load_extractor
from fmbench.zoo.resolve import resolve

CACHE, ZOO, REPOSITORIES = "cache", "zoo", "hub"
"""Folders of a bundle: files of the cache, entries, and entries that live on the Hub."""


@dataclass(frozen=True)
class Need:
    """One item to have on this machine.

    Attributes:
        kind: entry, dataset, extractor or features.
        name: its name.
        fetch: downloads and checks it, and returns its files by their path in a bundle; errors are one line.
    """

    kind: str
    name: str
    fetch: Callable[[], Mapping[str, Path]]


def needs(names: Iterable[str]) -> list[Need]:
    """The needs of entries, ``hf:owner/name@revision``, tasks, extractors and benchmarks, each once.

    A benchmark needs its tasks and their entries, a task its data and its extractor. Nothing is fetched but the recipes of ``hf:`` names.
    Raises UnknownName, and what :func:`fmbench.zoo.hub.find` raises.
    """
    found = [need for name in names for need in _of(name)]
    return list({(need.kind, need.name): need for need in found}.values())


def everything() -> list[str]:
    """The names of all benchmarks and entries that come with the package, and of the extractors that their tasks use."""
    return [*list_benchmarks(), *catalogue.list_all()]


def _of(name: str) -> list[Need]:
    if name.startswith(PREFIX):
        found = resolve(name).hub
        assert found is not None
        return [_repository(found)]
    if name in list_benchmarks():
        found = []
        for task in protocol.read(name).tasks:
            found += [*_of_task(TASKS.resolve(task)()), *map(_of_entry, catalogue.list_entries(task))]
        return found
    if name in TASKS.all():
        return _of_task(TASKS.resolve(name)())
    if name in EXTRACTORS.all():
        return [_extractor(name)]
    return [_of_entry(name)]


def _of_task(task: Task) -> list[Need]:
    """The splits that a task reads, its extractor, and the extractor's features of its images."""
    found = [_dataset(dataset, split) for dataset, split in _splits(task)]
    if task.extractor:
        about = f"{task.name} on {task.extractor}"
        found += [*_of(task.extractor), Need("features", about, lambda: _features(task))]
    return found


def _splits(task: Task) -> list[tuple[hub_data.Dataset, str]]:
    """The splits of the Hub's datasets that a task reads."""
    sources = [s for s in (task.source, task.target, task.heldout) if hasattr(s, "dataset") and hasattr(s, "split")]
    return [(source.dataset, source.split) for source in sources]  # type: ignore[union-attr]


def known_splits() -> dict[Path, tuple[hub_data.Dataset, hub_data.Split]]:
    """Folder in the cache -> the dataset and the split that it holds, of all registered tasks."""
    found = [pair for name in TASKS.all() for pair in _splits(TASKS.resolve(name)())]
    return {hub_data.cache_folder(dataset, split): (dataset, dataset.split(split)) for dataset, split in found}


def _dataset(dataset: hub_data.Dataset, split: str) -> Need:
    def fetch() -> Mapping[str, Path]:
        hub_data.load(dataset, split)
        return _cached(hub_data.cache_folder(dataset, split).iterdir())

    return Need("dataset", f"{dataset.repo}/{split}", fetch)


def _extractor(name: str) -> Need:
    """The weights of a registered extractor; those that come in a Python package need no download."""
    file = builders.FILES.get(name)
    return Need("extractor", name, lambda: _cached([fetch_file(file, builders.WEIGHTS)]) if file else {})


def _features(task: Task) -> Mapping[str, Path]:
    """Features of the training images in the cache, if any; otherwise they are computed on first use, without a network connection."""
    assert task.extractor is not None
    path = store.features_file(task, load_extractor(task.extractor))
    return _cached(file for file in (path, path.with_suffix(".json")) if file.is_file())


def _cached(paths: Iterable[Path]) -> Mapping[str, Path]:
    return {f"{CACHE}/{path.relative_to(cache_root()).as_posix()}": path for path in sorted(paths)}


def _of_entry(name: str) -> Need:
    return _entry(resolve(name).entry)


def _entry(entry: catalogue.Entry) -> Need:
    """An entry of the zoo or a folder."""

    def fetch() -> Mapping[str, Path]:
        files = {n: entry.folder / n for n in (hub.RECIPE, *hub.BESIDE) if (entry.folder / n).is_file()}
        for one in entry.trainings:
            if one.recipe.weights is not None:
                one.read_weights()
                files[one.recipe.weights.file] = one.weights_here()
        return {f"{ZOO}/{entry.name}/{name}": path for name, path in files.items()}

    return Need("entry", entry.name, fetch)


def _repository(found: hub.HubEntry) -> Need:
    """An entry on the Hub, whose recipe has been read."""

    def fetch() -> Mapping[str, Path]:
        entry = found.fetch()
        names = [hub.RECIPE, *hub.BESIDE, *(pinned.file for pinned in found.entry.recipe.pins)]
        there = {n: entry.folder / n for n in names if (entry.folder / n).is_file()}
        return {f"{REPOSITORIES}/{found.address.repo}/{found.address.revision}/{n}": p for n, p in there.items()}

    return Need("entry", str(found.address), fetch)
