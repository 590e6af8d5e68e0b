"""Image datasets of the Hub as memory-mapped arrays: decoded once, pinned by the SHA-256 of their pixels.

Rows are stored in the order of the SHA-256 of (label, pixels), because copies of a dataset differ in row order:
CIFAR-10 starts with its fourth batch on the Hub and with its first elsewhere. So there is one hash and one cache, and a
seed draws the same samples, whichever copy was read.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmbench.progress import progress_bars
from fmbench.storage.cache import cache_root
from fmbench.storage.failures import writing
from fmbench.storage.files import write_json
from fmbench.storage.hub import fetch
from fmbench.storage.readers import first_line

CHUNK = 1000
ABANDONED_SECONDS = 24 * 3600.0
"""Age at which the temporary folder of a killed process is removed."""


@dataclass(frozen=True)
class Split:
    """One parquet file of a dataset.

    Attributes:
        filename: path in the repository.
        rows: number of images.
        sha256: of the uint8 pixels (rows, channels, height, width) in stored order, followed by the uint8 labels.
    """

    filename: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """A labelled image dataset of the Hub, with a column of PNG images and a column ``label``.

    Attributes:
        repo: owner/name.
        revision: commit.
        image_column: name of the column of images.
        shape: (channels, height, width) of every image; 1 channel is greyscale, 3 are RGB.
        splits: files by split name.
    """

    repo: str
    revision: str
    image_column: str
    shape: tuple[int, int, int]
    splits: Mapping[str, Split]

    def split(self, name: str) -> Split:
        """The split of a name. Raises ValueError."""
        if name not in self.splits:
            raise ValueError(f"{self.repo} has no split {name!r}; it has: {', '.join(self.splits)}")
        return self.splits[name]


@dataclass(frozen=True)
class Arrays:
    """Decoded images (n, channels, height, width) and labels (n,), uint8, memory-mapped and read-only."""

    images: np.ndarray
    labels: np.ndarray


def cache_folder(dataset: Dataset, split: str) -> Path:
    """Where a split's arrays are kept: below ``FMBENCH_CACHE`` or ``~/.cache/fmbench``, named by the pinned hash."""
    return cache_root() / "datasets" / dataset.repo.replace("/", "--") / f"{split}-{dataset.split(split).sha256[:16]}"


def pixel_hash(images: np.ndarray, labels: np.ndarray, order: np.ndarray | None = None) -> str:
    """SHA-256 of uint8 images (n, channels, height, width), then labels (n,), taken in ``order``, a chunk at a time."""
    order = np.arange(len(images)) if order is None else order
    digest = hashlib.sha256()
    for start in range(0, len(order), CHUNK):
        digest.update(images[order[start : start + CHUNK]].tobytes())
    digest.update(labels[order].tobytes())
    return digest.hexdigest()


def canonical_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices that sort the rows by the SHA-256 of (label byte, pixel bytes); rows that tie are identical."""
    rows = zip(images, labels, strict=True)
    keys = [hashlib.sha256(bytes([label]) + image.tobytes()).digest() for image, label in rows]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _pixels(png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """One PNG as uint8 (channels, height, width); other formats, modes and sizes are a ValueError, never converted."""
    from PIL import Image

    channels, height, width = shape
    mode = {1: "L", 3: "RGB"}[channels]
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        if (image.mode, image.size) != (mode, (width, height)):
            raise ValueError(f"an image is {image.mode} {image.width}x{image.height}, not {mode} {width}x{height}")
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def decode(path: Path, dataset: Dataset, rows: int, advance: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a parquet file in its own order, uint8; ``advance`` gets the size of every chunk decoded.

    Raises ValueError in one line when the file is not what the dataset promises: no parquet, other columns, number of
    rows, formats, sizes, or labels.
    """
    import pyarrow.parquet

    images, labels, done = np.empty((rows, *dataset.shape), np.uint8), np.empty(rows, np.uint8), 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows != rows:
                raise ValueError(f"it has {file.metadata.num_rows} rows")
            for batch in file.iter_batches(CHUNK, columns=[f"{dataset.image_column}.bytes", "label"]):
                values = batch.column("label").to_numpy()
                if values.min() < 0 or values.max() > 255:
                    raise ValueError(f"it has labels from {values.min()} to {values.max()}")
                labels[done : done + len(values)] = values
                for row, png in enumerate(batch.column(dataset.image_column).field("bytes"), done):
                    images[row] = _pixels(png.as_py(), dataset.shape)
                done += len(values)
                advance(len(values))
    except Exception as error:  # Arrow's and Pillow's own, which derive from nothing that could be named
        reason = first_line(error)
        promise = f"{rows} PNG images {'x'.join(map(str, dataset.shape))}"
        raise ValueError(f"not the parquet file of {promise} that {dataset.repo} promises ({reason})") from error
    return images, labels


def open_arrays(folder: Path, dataset: Dataset, split: Split) -> Arrays:
    """Map the stored arrays after checking every byte. Raises ValueError naming the hashes expected and found."""
    advice = "delete the folder and it is made again"
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy has many ways to fail on a header
        raise ValueError(f"{folder} is damaged ({first_line(error)}); {advice}") from error
    found = [(array.shape, array.dtype.name) for array in (images, labels)]
    expected = [((split.rows, *dataset.shape), "uint8"), ((split.rows,), "uint8")]
    if found != expected:
        raise ValueError(f"{folder} is damaged: arrays expected {expected}, found {found}; {advice}")
    if (digest := pixel_hash(images, labels)) != split.sha256:
        raise ValueError(f"{folder} is damaged: SHA-256 expected {split.sha256}, found {digest}; {advice}")
    return Arrays(images, labels)


def _write_array(path: Path, array: np.ndarray, order: np.ndarray) -> None:
    """Write ``array[order]`` as .npy in chunks, by plain writes: a full disk under a memory map kills the process."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": array.shape})
        for start in range(0, len(order), CHUNK):
            file.write(array[order[start : start + CHUNK]].tobytes())
        file.flush()
        os.fsync(file.fileno())


def _prepare(parent: Path) -> None:
    """Make the folder that caches are kept in, and remove what processes killed a day ago left there."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=parent):
        pass
    for left in parent.glob(".*.tmp"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _store(folder: Path, arrays: Mapping[str, np.ndarray], order: np.ndarray, provenance: Mapping[str, object]) -> None:
    """Write everything into a temporary neighbour and rename it; when another process was first, its folder stays."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, array in arrays.items():
            _write_array(temporary / f"{name}.npy", array, order)
        write_json(temporary / "source.json", provenance)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(dataset: Dataset, split: str) -> Arrays:
    """The arrays of a split: cached ones without any network, else fetched, decoded, checked and cached first.

    Safe in several processes at once. Raises, each in one line, ValueError (unknown split, file or pixels not as
    pinned, damaged cache), OSError (cache not writable; errno ENOSPC when the disk is full, and nothing half-written
    stays), and what :func:`fmbench.storage.hub.fetch` raises.
    """
    folder, pinned = cache_folder(dataset, split), dataset.split(split)
    if folder.is_dir():
        return open_arrays(folder, dataset, pinned)
    size = pinned.rows * (int(np.prod(dataset.shape)) + 1)
    images_of_size = f"{size / 1e6:.1f} MB of decoded images"
    with writing(folder.parent, images_of_size):
        _prepare(folder.parent)
    with progress_bars() as progress:
        source = fetch(dataset.repo, dataset.revision, pinned.filename, progress)
        bar = progress.add_task(f"decode {dataset.repo.partition('/')[2]}/{split}", total=pinned.rows)
        try:
            images, labels = decode(source.path, dataset, pinned.rows, lambda n: progress.advance(bar, n))
        except ValueError as error:
            raise ValueError(f"{source.origin}: {error}; {source.discard()}") from error
    order = canonical_order(images, labels)
    if (found := pixel_hash(images, labels, order)) != pinned.sha256:
        wrong = f"SHA-256 of the pixels expected {pinned.sha256}, found {found}"
        raise ValueError(f"{source.origin}: {wrong}; {source.discard()}")
    provenance = {"origin": source.origin, "revision": dataset.revision, "rows": pinned.rows, "sha256": found}
    with writing(folder.parent, images_of_size):
        _store(folder, {"images": images, "labels": labels}, order, provenance)
    return open_arrays(folder, dataset, pinned)
