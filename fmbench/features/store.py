"""Features of reference images computed once, stored on disk, and computed again when a file does not match its own hash.

They stream into a memory-mapped float32 file, so that memory does not grow with the dataset.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fmbench.features.extractor import Extractor
from fmbench.storage.cache import cache_root
from fmbench.storage.failures import writing
from fmbench.storage.files import file_sha256, fingerprint, write_json
from fmbench.storage.readers import read_json
from fmbench.tasks.base import Distribution, Task

BATCH = 1000
FOLDER = "features"
FEATURES = ".f32"
SEAL = "seal"
FORMAT = 2
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


def _sealed(stated: dict[str, Any], path: Path) -> str:
    """Hash of what is stated about a file of features, its hash and shape included, and of the file's name."""
    return fingerprint([path.name, {name: value for name, value in stated.items() if name != SEAL}])


def _open(path: Path) -> np.ndarray | None:
    """The mapped features (n, f), None when they are missing or are not, byte for byte and in shape, what was written.

    Every byte is read once, here; afterwards the map is trusted for as long as it is open.
    """
    try:
        stated = read_json(path.with_suffix(".json"), "record of features")
        if stated[SEAL] != _sealed(stated, path) or not path.is_file() or file_sha256(path) != stated["sha256"]:
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
        with writing(path.parent, "features"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb")
        with file:
            for batch in batches:
                features = extractor.features(batch, clip=clip)
                rows, width = rows + len(features), features.shape[1]
                with writing(path.parent, f"{rows} features of width {width}"):
                    file.write(features.tobytes())
                    file.flush()
            if not rows:
                raise ValueError("no images were given, so there are no features")
            os.fsync(file.fileno())
        stated = {"n": rows, "features": width, "sha256": file_sha256(temporary), "extractor": extractor.identity}
        with writing(path.parent, "features"):
            os.replace(temporary, path)
            write_json(path.with_suffix(".json"), {**stated, SEAL: _sealed(stated, path)})
    finally:
        temporary.unlink(missing_ok=True)
    return np.memmap(path, np.float32, "r", shape=(rows, width))


def features_file(task: Task, extractor: Extractor, cache: Path | None = None) -> Path:
    """Where the features of a task's training images are kept, whether they are there or not; their record lies beside them as ``.json``."""
    folder = cache_root() / FOLDER if cache is None else cache
    return folder / (key(pixel_sha256(task.target), extractor) + FEATURES)


def reference_features(task: Task, extractor: Extractor, cache: Path | None = None) -> np.ndarray:
    """Features of a task's training images, (n, f) float32, memory-mapped.

    Args:
        task: an image task with a finite target.
        extractor: of the features.
        cache: folder, ``features`` in ``FMBENCH_CACHE`` by default. A damaged file is computed again.

    Raises ValueError for a task without finite images, and what :func:`spill_features` raises.
    """
    return spill_features(image_batches(task.target), extractor, features_file(task, extractor, cache))
