"""Reference statistics and features computed once, kept on disk, and recomputed when a file does not match its own hash.

Statistics are float64 and stream, so memory does not grow with the dataset. Features are spilled to a memory-mapped
float32 file only by metrics that need every one of them (kernel distance, precision and recall).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from fmbench.datasets import disk_full, is_disk_full
from fmbench.features.download import CACHE_VARIABLE, cache_root, file_sha256
from fmbench.features.extractor import Extractor
from fmbench.files import fingerprint, sha256, write_atomic, write_json
from fmbench.statistics.moments import Moments
from fmbench.tasks.base import Distribution, Task

BATCH = 1000
FOLDER = "features"
FEATURES = ".f32"
FORMAT = 1
"""Raised when the files of this module change their meaning."""


def image_batches(source: Distribution, size: int = BATCH) -> Iterator[Tensor]:
    """All images of a finite set in their fixed order, ``size`` at a time. Raises ValueError for an endless distribution."""
    if hasattr(source, "batches"):
        yield from (images for images, _ in source.batches(size))  # type: ignore[attr-defined]
    elif hasattr(source, "points"):
        yield from source.points()[0].split(size)  # type: ignore[attr-defined]
    else:
        raise ValueError(f"{type(source).__name__} is no finite set of images, so it has no reference statistics")


def pixel_sha256(source: Distribution) -> str:
    """Hash that pins the images: the published one of a Hub dataset, otherwise that of all float32 pixels in order."""
    dataset = getattr(source, "dataset", None)
    if dataset is not None:
        return dataset.split(source.split).sha256  # type: ignore[attr-defined]
    digest = hashlib.sha256()
    for batch in image_batches(source):
        digest.update(batch.numpy().tobytes())
    return digest.hexdigest()


def key(pixels: str, extractor: Extractor) -> str:
    """Name of what an extractor makes of images: hash of the pixels' hash and the extractor's identity, resizing included."""
    return fingerprint({"format": FORMAT, "pixels": pixels, "extractor": extractor.identity})


def _cached(task: Task, extractor: Extractor, cache: Path | None, suffix: str) -> Path:
    folder = cache_root() / FOLDER if cache is None else cache
    return folder / (key(pixel_sha256(task.target), extractor) + suffix)


def stream_moments(batches: Iterator[Tensor], extractor: Extractor, clip: bool = False) -> Moments:
    """Float64 moments of the features of batches of images, one batch in memory at a time.

    Raises ValueError like :meth:`Extractor.outputs`, and when there are no images.
    """
    total: Moments | None = None
    for batch in batches:
        part = Moments.of(extractor.features(batch, clip=clip))
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no images were given, so there are no statistics")
    return total


def _digest(moments: Moments) -> str:
    return sha256(moments.n.to_bytes(8, "little") + moments.mean.tobytes() + moments.scatter.tobytes())


def write_moments(path: Path, moments: Moments) -> None:
    """Store moments as safetensors with their own SHA-256. Raises OSError, in one line when the disk is full."""
    from safetensors.numpy import save

    arrays = {"mean": moments.mean, "scatter": moments.scatter}
    try:
        write_atomic(path, save(arrays, {"n": str(moments.n), "sha256": _digest(moments)}))
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(path.parent, "reference statistics", CACHE_VARIABLE) from error
        raise


def read_moments(path: Path) -> Moments | None:
    """Stored moments, None when the file is missing, damaged, or does not match its own hash."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            stated = file.metadata()
            moments = Moments(int(stated["n"]), file.get_tensor("mean"), file.get_tensor("scatter"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return moments if _digest(moments) == stated.get("sha256") else None


def reference_statistics(task: Task, extractor: Extractor, cache: Path | None = None) -> Moments:
    """Moments of the features of a task's training images, in float64.

    Args:
        task: an image task with a finite target.
        extractor: of the features.
        cache: folder, ``features`` in ``FMBENCH_CACHE`` by default. A damaged file is computed again.

    Raises ValueError for a task without finite images or images that the extractor refuses, OSError when the cache cannot be
    written.
    """
    path = _cached(task, extractor, cache, ".moments.safetensors")
    moments = read_moments(path)
    if moments is None:
        spilled = _open(_cached(task, extractor, cache, FEATURES))
        made = stream_moments(image_batches(task.target), extractor) if spilled is None else Moments.of(spilled, BATCH)
        write_moments(path, moments := made)
    return moments


def _open(path: Path) -> np.ndarray | None:
    """The mapped features (n, f), None when they are missing or do not match the hash beside them."""
    try:
        stated = json.loads(path.with_suffix(".json").read_text())
        if file_sha256(path) != stated["sha256"]:
            return None
        return np.memmap(path, np.float32, "r", shape=(stated["n"], stated["features"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def spill_features(batches: Iterator[Tensor], extractor: Extractor, path: Path, clip: bool = False) -> np.ndarray:
    """Features of batches of images as a read-only memory map (n, f) float32 of the file ``path``.

    Written a batch at a time by plain writes (a full disk under a map would kill the process), and complete only under the
    final name, with its hash in a JSON file beside it; an intact file is opened instead. Raises ValueError like
    :meth:`Extractor.outputs`, OSError with errno ENOSPC in one line when the disk is full, and then nothing stays.
    """
    stored = _open(path)
    if stored is not None:
        return stored
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rows = width = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for batch in batches:
                features = extractor.features(batch, clip=clip)
                rows, width = rows + len(features), features.shape[1]
                file.write(features.tobytes())
            file.flush()
            os.fsync(file.fileno())
        if not rows:
            raise ValueError("no images were given, so there are no features")
        stated = {"n": rows, "features": width, "sha256": file_sha256(temporary), "extractor": extractor.identity}
        os.replace(temporary, path)
        write_json(path.with_suffix(".json"), stated)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(path.parent, f"{rows} features of width {width}", CACHE_VARIABLE) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return np.memmap(path, np.float32, "r", shape=(rows, width))


def reference_features(task: Task, extractor: Extractor, cache: Path | None = None) -> np.ndarray:
    """Features of a task's training images, (n, f) float32, memory-mapped; arguments and errors of the functions above."""
    return spill_features(image_batches(task.target), extractor, _cached(task, extractor, cache, FEATURES))
