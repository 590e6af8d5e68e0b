"""A small dataset of noise laid out like the Hub."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from fmbench.tasks.hub_data import Dataset, Split

REVISION = "0123456789abcdef0123456789abcdef01234567"


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    """One uint8 image (height, width, channels) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format=form)
    return buffer.getvalue()


def write_parquet(path: Path, files: list[bytes], labels: np.ndarray, column: str) -> None:
    """A parquet file of encoded images and labels, as the Hub holds it, in row groups of seven."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": data, "path": None} for data in files], kind)
    table = pa.table({column: images, "label": pa.array(labels, pa.int64())})
    pyarrow.parquet.write_table(table, path, row_group_size=7)


@dataclass(frozen=True)
class Tiny:
    """A dataset of noise with its pixels by split, (n, channels, height, width), and labels, in the file's order."""

    root: Path
    dataset: Dataset
    pixels: dict[str, tuple[np.ndarray, np.ndarray]]

    def file(self, split: str = "train") -> Path:
        return self.root / "datasets" / self.dataset.repo / self.dataset.split(split).filename


def make_tiny(root: Path, shape: tuple[int, int, int], seed: int = 0, backwards: bool = False) -> Tiny:
    """Write the parquet files; the pins come from a plain sort of rows, not from the code under test."""
    random = np.random.default_rng(seed)
    splits, pixels = {}, {}
    for name, rows in (("train", 40), ("test", 15)):
        images = random.integers(0, 256, (rows, *shape), dtype=np.uint8)
        images[3] = images[5]  # duplicates exist in the wild
        labels = random.integers(0, 10, rows)
        filename = f"plain/{name}-00000-of-00001.parquet"
        as_bytes = [bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)]
        as_bytes.sort(key=lambda row: hashlib.sha256(row).hexdigest())
        everything = b"".join(row[1:] for row in as_bytes) + bytes(row[0] for row in as_bytes)
        splits[name] = Split(filename, rows, hashlib.sha256(everything).hexdigest())
        if backwards:
            images, labels = images[::-1].copy(), labels[::-1].copy()
        pixels[name] = (images, labels)
        encoded = [png(image.transpose(1, 2, 0)) for image in images]
        write_parquet(root / "datasets" / "someone" / "noise" / filename, encoded, labels, "img")
    return Tiny(root, Dataset("someone/noise", REVISION, "img", shape, splits), pixels)
