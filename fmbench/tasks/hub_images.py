"""MNIST, Fashion-MNIST and CIFAR-10 from the Hub: never resized or recompressed, pixels ``x / 127.5 - 1`` in [-1, 1].

The pinned pixels are those of the original releases: ``tests/hub/test_real_copies.py`` compares them with the MD5 sums
published for the IDX files of MNIST and Fashion-MNIST and for the binary batches of CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from fmbench.nets.presets import preset
from fmbench.shapes import Labels, Points
from fmbench.tasks.base import StandardNormal, Task
from fmbench.tasks.hub_data import Arrays, Dataset, Split, load

CHUNK = 1000

# Sized for two CPU cores: about a quarter of an hour per entry.
SMALL_NET = {"name": "unet", "patch": 2, "channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": ()}
SMALL_TRAIN = {
    "steps": 3000,
    "batch_size": 128,
    "lr": 1e-3,
    "warmup": 200,
    "clip": 1.0,
    "ema": 0.999,
    "storage": "float16",
    "precision": "auto",
}
# The network and budget of torchcfm's CIFAR-10 example.
LARGE_NET = preset("unet-cifar10")
LARGE_TRAIN = {
    "steps": 400_000,
    "batch_size": 128,
    "lr": 2e-4,
    "warmup": 5000,
    "schedule": "constant",
    "clip": 1.0,
    "ema": 0.9999,
    "precision": "auto",
}


def _splits(config: str, **pinned: tuple[int, str]) -> dict[str, Split]:
    """One parquet file per split, with its rows and the hash of its pixels."""
    return {name: Split(f"{config}/{name}-00000-of-00001.parquet", *values) for name, values in pinned.items()}


MNIST = Dataset(
    repo="ylecun/mnist",
    revision="77f3279092a1c1579b2250db8eafed0ad422088c",
    image_column="image",
    shape=(1, 28, 28),
    splits=_splits(
        "mnist",
        train=(60_000, "b8b688b63ab04767d95907ea845b63243aca9644b129906865bedd1442009a92"),
        test=(10_000, "cff4e1c99a741fac4beda482b7003d0fd3707c401777d1882c6f908ed5adc62d"),
    ),
)
FASHION_MNIST = Dataset(
    repo="zalando-datasets/fashion_mnist",
    revision="531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
    image_column="image",
    shape=(1, 28, 28),
    splits=_splits(
        "fashion_mnist",
        train=(60_000, "dd013a07cb95faa8b22bffd4bfc5d83dee467a8c27cbbcb76d8ecdc7987267a7"),
        test=(10_000, "9df60cc42530a6bef7309c193a332c0ba878adcf2bc98c2f45f4e39eebbda4fb"),
    ),
)
CIFAR10 = Dataset(
    repo="uoft-cs/cifar10",
    revision="0b2714987fa478483af9968de7c934580d0bb9a2",
    image_column="img",
    shape=(3, 32, 32),
    splits=_splits(
        "plain_text",
        train=(50_000, "9f891484a3c3f027e5e7ace4fbf3168564ce521d7bc4f8bb005f8e2ecb2048a2"),
        test=(10_000, "3b5332a1408e8b386a83b92de4d3bd45a1813c506cf7e4e2b6aa92fdcfed9a8f"),
    ),
)


class HubImages:
    """A split of a Hub dataset, drawn with replacement like :class:`~fmbench.tasks.digits.Images`.

    Nothing is fetched or read before the first use. Pixels stay memory-mapped uint8, and only what is asked for becomes
    float32.
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        dataset.split(split)
        self.dataset, self.split = dataset, split

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker maps the file itself; pickling the map would copy every pixel.
        return HubImages, (self.dataset, self.split)

    @property
    def sha256(self) -> str:
        """The published hash of its pixels."""
        return self.dataset.split(self.split).sha256

    def __len__(self) -> int:
        return self.dataset.split(self.split).rows

    @cached_property
    def arrays(self) -> Arrays:
        """The pixels and labels, fetched on first use. Raises what :func:`~fmbench.tasks.hub_data.load` raises."""
        return load(self.dataset, self.split)

    def take(self, index: np.ndarray) -> tuple[Points, Labels]:
        """The images (n, channels, height, width) in [-1, 1] and labels (n,) at rows ``index``, (n,) integers."""
        pixels = torch.from_numpy(self.arrays.images[index])
        labels = torch.from_numpy(self.arrays.labels[index])
        return pixels.float().div_(127.5).sub_(1), labels.long()

    def sample_labelled(self, n: int, generator: torch.Generator) -> tuple[Points, Labels]:
        """``n`` images with labels, with replacement."""
        return self.take(torch.randint(len(self), (n,), generator=generator).numpy())

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """``n`` images, with replacement."""
        return self.sample_labelled(n, generator)[0]

    def batches(self, size: int = CHUNK) -> Iterator[tuple[Points, Labels]]:
        """All images and labels in their fixed order, ``size`` at a time, so that only one batch is ever float32."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def points(self) -> tuple[Points, Labels]:
        """All images and labels in their fixed order as float32, 614 MB for CIFAR-10; :meth:`batches` streams them."""
        images = torch.empty((len(self), *self.dataset.shape))
        labels = torch.empty(len(self), dtype=torch.int64)
        for start, (x, y) in zip(range(0, len(self), CHUNK), self.batches(CHUNK), strict=True):
            images[start : start + CHUNK], labels[start : start + CHUNK] = x, y
        return images, labels


def _task(
    name: str, summary: str, dataset: Dataset, net: Mapping[str, Any], train: Mapping[str, Any], extractor: str
) -> Task:
    return Task(
        name=name,
        version=1,
        summary=summary,
        kind="image",
        shape=dataset.shape,
        source=StandardNormal(dataset.shape),
        target=HubImages(dataset, "train"),
        heldout=HubImages(dataset, "test"),
        net=net,
        train=train,
        num_classes=10,
        extractor=extractor,
        levels=256,
    )


@cache
def mnist() -> Task:
    """N(0, I) to MNIST's 60,000 training digits, 28 x 28 grey; ``data`` row from the 10,000 test digits."""
    summary = "N(0,I) to MNIST, 28x28 grey, 10 classes"
    return _task("mnist", summary, MNIST, SMALL_NET, SMALL_TRAIN, "mnist/mnist-cnn")


@cache
def fashion_mnist() -> Task:
    """N(0, I) to Fashion-MNIST's 60,000 training images, 28 x 28 grey; ``data`` row from the 10,000 test images."""
    summary = "N(0,I) to Fashion-MNIST, 28x28 grey, 10 classes"
    return _task("fashion-mnist", summary, FASHION_MNIST, SMALL_NET, SMALL_TRAIN, "fashion-mnist/fashion-mnist-cnn")


@cache
def cifar10() -> Task:
    """N(0, I) to CIFAR-10's 50,000 training images, 32 x 32 RGB; ``data`` row from the 10,000 test images."""
    return _task(
        "cifar10", "N(0,I) to CIFAR-10, 32x32 RGB, 10 classes", CIFAR10, LARGE_NET, LARGE_TRAIN, "inception-tf"
    )
