"""A small dataset laid out like the Hub, the real copies where reachable, and a client that sees the loopback only."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from huggingface_hub import constants
from PIL import Image
from server import HubServer

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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"), (3, 8, 6))


@pytest.fixture(scope="session")
def real_hub() -> Path:
    """The folder of real copies: FMBENCH_TEST_HUB, or shared/hub beside the checkout."""
    named = os.environ.get("FMBENCH_TEST_HUB")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "hub"
    if not (folder / "datasets").is_dir():
        pytest.skip(f"no copy of the real datasets at {folder}; set FMBENCH_TEST_HUB to a folder laid out like the Hub")
    return folder


@pytest.fixture(autouse=True)
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty caches, no folder, no token, an endpoint where nobody listens, no waiting between retries."""
    for name in ("FMBENCH_DATA", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "client"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    without_waiting = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", without_waiting)
    monkeypatch.setattr("huggingface_hub.file_download.time", without_waiting)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HubServer]]:
    """``serve(folder, fault)``: a loopback Hub that HF_ENDPOINT points to."""
    running: list[HubServer] = []

    def start(folder: Path, fault: str = "healthy") -> HubServer:
        hub = HubServer(folder, fault).__enter__()
        running.append(hub)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        return hub

    yield start
    huggingface_hub.close_session()
    for hub in running:
        hub.__exit__()
