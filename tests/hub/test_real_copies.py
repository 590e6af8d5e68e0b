"""The pins against the real datasets, whose original releases have published MD5 sums; skipped without a copy."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from server import HubServer

from fmbench.tasks.hub_data import Dataset, canonical_order, decode, load, pixel_hash
from fmbench.tasks.hub_images import CIFAR10, FASHION_MNIST, MNIST

# MD5 of the uncompressed IDX files (images, labels) and of the binary batches, as their distributors publish them.
IDX_MD5 = {
    ("ylecun/mnist", "train"): ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
    ("ylecun/mnist", "test"): ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ("zalando-datasets/fashion_mnist", "train"): (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
    ),
    ("zalando-datasets/fashion_mnist", "test"): (
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
BATCH_MD5 = {
    "train": {
        "5dd7e06a14cb22eb9f671a540d1b7c25",
        "5ea93a67294ea407fff1d09f752e9692",
        "942cd6a4bcdd0dd3c604fbe906cb4421",
        "ae636b3ba5c66a11e91e8cb52e771fcb",
        "53f37980c15c3d472c316c40844f3f0d",
    },
    "test": {"803d5f7f4d78ea53de84dbe85f74fb6d"},
}
SPLITS = ["test", pytest.param("train", marks=pytest.mark.slow)]


def decoded(hub: Path, dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and labels of a real file in its own order, whose canonical hash must be the pin."""
    pinned = dataset.split(split)
    images, labels = decode(hub / "datasets" / dataset.repo / pinned.filename, dataset, pinned.rows, lambda _: None)
    assert pixel_hash(images, labels, canonical_order(images, labels)) == pinned.sha256
    return images, labels


@pytest.mark.parametrize("dataset", [MNIST, FASHION_MNIST], ids=lambda dataset: dataset.repo)
@pytest.mark.parametrize("split", SPLITS)
def test_grey_pins_are_the_published_idx_files(real_hub: Path, dataset: Dataset, split: str) -> None:
    images, labels = decoded(real_hub, dataset, split)
    header = struct.pack(">4i", 2051, len(images), 28, 28), struct.pack(">2i", 2049, len(labels))
    found = tuple(hashlib.md5(head + x.tobytes()).hexdigest() for head, x in zip(header, (images, labels), strict=True))
    assert found == IDX_MD5[dataset.repo, split]


@pytest.mark.parametrize("split", SPLITS)
def test_cifar10_pins_are_the_published_batches(real_hub: Path, split: str) -> None:
    images, labels = decoded(real_hub, CIFAR10, split)
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    batches = records.reshape(-1, 10_000, 3073)
    # Copies keep the five batches whole but order them differently.
    assert {hashlib.md5(batch.tobytes()).hexdigest() for batch in batches} == BATCH_MD5[split]


@pytest.mark.parametrize("split", SPLITS)
def test_mnist_through_the_loopback_hub(real_hub: Path, serve: Callable[..., HubServer], split: str) -> None:
    hub = serve(real_hub)
    arrays = load(MNIST, split)
    counts, mean, deviation = {
        "train": ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 0.1307, 0.3081),
        "test": ([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], 0.1325, 0.3105),
    }[split]
    np.testing.assert_array_equal(np.bincount(arrays.labels), counts)
    np.testing.assert_allclose(arrays.images.mean() / 255, mean, atol=5e-5)
    np.testing.assert_allclose(arrays.images.std() / 255, deviation, atol=5e-5)
    assert [request.status for request in hub.served] == [200]
