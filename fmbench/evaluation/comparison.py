"""Samples from files and their reference: the real samples of a task, another file of samples, or statistics of features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fmbench.features.statistics import Statistics, stated_statistics
from fmbench.noise import generator
from fmbench.registry import TASKS
from fmbench.shapes import Labels, Points
from fmbench.storage.arrays import SPATIAL, STATISTICS, array_names, choose, read_array_file
from fmbench.storage.files import sha256
from fmbench.storage.samples import check_file, read_samples, reading
from fmbench.tasks.base import StandardNormal, Task

LEAST = 2
SHUFFLE = 0x5C0E
"""Key of the order samples are scored in."""
REFERENCE_KEY = "--reference-key"


@dataclass(frozen=True)
class PointSet:
    """A finite set of points without classes."""

    values: Points

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """``n`` of the points, with replacement."""
        return self.values[torch.randint(len(self.values), (n,), generator=generator)]

    def points(self) -> tuple[Points, Labels]:
        """All of them."""
        return self.values, torch.zeros(len(self.values), dtype=torch.int64)


@dataclass(frozen=True)
class Comparison:
    """Samples and their reference.

    Attributes:
        points: the samples, (n, *shape), in an order that says nothing.
        facts: ``n``, ``sha256`` and what :func:`~fmbench.storage.samples.read_samples` found; ``reference`` the same of a file compared with.
        task: the registered one, or one whose only content is the reference.
        statistics: the reference where it is nothing but mean and covariance of features; the task is empty then.
    """

    points: Points
    facts: dict[str, Any]
    task: Task
    statistics: Statistics | None = None


@dataclass(frozen=True)
class Files:
    """The files and options of a comparison.

    Attributes:
        samples: a file or folder, see :func:`~fmbench.storage.samples.read_samples`.
        task, reference: what to compare with, exactly one: a registered task, or another file.
        key, reference_key: which array of a file of several.
        value_range: black and white of float images on both sides.
        extractor: of features, None for the task's.
    """

    samples: str | Path
    task: str | None = None
    reference: str | Path | None = None
    key: str | None = None
    reference_key: str | None = None
    value_range: str | None = None
    extractor: str | None = None

    def __post_init__(self) -> None:
        if (self.task is None) == (self.reference is None):
            raise ValueError("give what to compare with: --task NAME or --reference FILE, one of them")
        if self.reference is None and self.reference_key is not None:
            raise ValueError(
                f"{REFERENCE_KEY} {self.reference_key} is for a --reference, and there is none; leave it out"
            )


def _shuffled(points: Points) -> Points:
    return points[torch.randperm(len(points), generator=generator(SHUFFLE))]


def _against(reference: Points, digest: str, extractor: str | None) -> Task:
    """A task whose only content is a reference set."""
    points = PointSet(reference)
    shape = tuple(reference.shape[1:])
    return Task(
        name=f"samples-{digest[:12]}",
        version=1,
        summary="a set of samples",
        kind="image" if len(shape) == 3 else "vector",
        shape=shape,
        source=StandardNormal(shape),
        target=points,
        heldout=points,
        extractor=extractor,
    )


def _counted(points: Points) -> dict[str, Any]:
    """Number and hash of the samples as stored in the file."""
    return {"n": len(points), "sha256": sha256(points.contiguous().numpy())}


def _check_count(points: Points, path: str | Path) -> None:
    if len(points) < LEAST:
        raise ValueError(
            f"{path} holds {len(points)} sample; at least {LEAST} are needed, thousands for a score that means something"
        )


def _statistics(path: Path, key: str | None) -> Statistics | None:
    """The statistics in a reference file; None when it holds samples, or both and ``key`` does not ask for statistics.

    Raises ValueError like :func:`~fmbench.features.statistics.stated_statistics`.
    """
    check_file(path)
    with reading(path):
        names = array_names(path)
        if not set(STATISTICS) <= set(names):
            return None
        if key not in STATISTICS and (key is not None or set(names) - {*STATISTICS, *SPATIAL}):
            choose(names, key, path, REFERENCE_KEY)
            return None
        mu, sigma = (read_array_file(path, name).array for name in STATISTICS)
        return stated_statistics(mu, sigma, str(path))


def _check_range(given: Files, sides: list[tuple[str | Path, dict[str, Any]]]) -> None:
    """Raise ValueError when a range was given and neither side has float images."""
    if given.value_range is None or any("clipped_share" in f and f["dtype"] != "uint8" for _, f in sides):
        return
    path, facts = sides[0]
    holds = "uint8 images, which are always 0 to 255" if "clipped_share" in facts else "vectors"
    raise ValueError(f"--range {given.value_range} is for float images, and {path} holds {holds}; leave it out")


def _with_statistics(given: Files, statistics: Statistics) -> Comparison:
    if given.extractor is None:
        raise ValueError(
            f"{given.reference} holds statistics of features, and nothing says of which extractor; name it with --extractor"
        )
    points, facts = read_samples(given.samples, None, given.key, given.value_range)
    if points.ndim != 4:
        raise ValueError(f"{given.reference} holds statistics of images, and {given.samples} holds vectors")
    _check_range(given, [(given.samples, facts)])
    _check_count(points, given.samples)
    digest = statistics.sha256
    about = {"sha256": digest, "arrays": list(STATISTICS), "features": len(statistics.mean)}
    facts = {**_counted(points), **facts, "reference": about}
    return Comparison(_shuffled(points), facts, _against(points[:0], digest, given.extractor), statistics)


def read_comparison(given: Files) -> Comparison:
    """Read and check samples and reference.

    Files may be sorted, by class say, and groups of a jackknife and first rows of large sets are taken as random: both sets are shuffled,
    always in the same way.

    Raises ValueError, UnknownName or FileNotFoundError in one line: what :func:`~fmbench.storage.samples.read_samples` refuses, fewer than two
    samples on a side, a reference of equal samples, options that would change nothing.
    """
    about, sides = {}, []
    if given.reference is None:
        definition = TASKS.resolve(given.task or "")()
    else:
        path = Path(given.reference)
        statistics = _statistics(path, given.reference_key)
        if statistics is not None:
            return _with_statistics(given, statistics)
        real, found = read_samples(path, None, given.reference_key, given.value_range, REFERENCE_KEY)
        _check_count(real, path)
        if bool((real == real[:1]).all()):
            raise ValueError(
                f"{path} holds one and the same sample {len(real):,} times; a reference needs samples that differ"
            )
        about = {"reference": {**_counted(real), **found}}
        sides = [(path, found)]
        definition = _against(_shuffled(real), about["reference"]["sha256"], given.extractor)
    points, facts = read_samples(given.samples, definition.shape, given.key, given.value_range)
    _check_range(given, [(given.samples, facts), *sides])
    _check_count(points, given.samples)
    if given.extractor is not None and "image" not in definition.space.provides:
        raise ValueError(
            f"--extractor {given.extractor} is for images, and {given.samples} holds vectors; leave it out"
        )
    return Comparison(_shuffled(points), {**_counted(points), **facts, **about}, definition)
