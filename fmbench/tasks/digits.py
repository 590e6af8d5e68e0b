"""Handwritten digits: the 1,797 scans of 8 x 8 pixels that scikit-learn carries (UCI optical recognition, test part)."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmbench.noise import generator
from fmbench.shapes import Labels, Points
from fmbench.tasks.base import StandardNormal, Task
from fmbench.tasks.mixture import GaussianMixture

TRAIN_IMAGES = 1437
SPLIT_SEED = 8
# The empirical oracle is the training set blurred by a tenth of a grey level (16 levels over [-1, 1]), so that it has a density.
ORACLE_STD = 0.0125


class Images:
    """A finite labelled set of images, drawn with replacement."""

    def __init__(self, images: Points, labels: Labels) -> None:
        self.images, self.labels = images, labels

    def sample_labelled(self, n: int, generator: torch.Generator) -> tuple[Points, Labels]:
        """``n`` images with labels, with replacement."""
        index = torch.randint(len(self.images), (n,), generator=generator)
        return self.images[index], self.labels[index]

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """``n`` images, with replacement."""
        return self.sample_labelled(n, generator)[0]

    def points(self) -> tuple[Points, Labels]:
        """All images and labels in their fixed order."""
        return self.images, self.labels


def _scans() -> tuple[Tensor, Tensor]:
    """Pixels, (1797, 64) from 0 to 16, and digits, (1797,), float64, from the file in the package of scikit-learn.

    Importing that package takes a second, so its own reader is asked only where the file is not found.
    """
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = torch.from_numpy(np.loadtxt(file, delimiter=","))
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.data), torch.from_numpy(bunch.target).double()  # type: ignore[attr-defined]


@cache
def split() -> tuple[Images, Images]:
    """The fixed split: a seeded permutation, 1,437 images to train and 360 held out. Pixels ``x / 8 - 1`` in [-1, 1]."""
    scans, digit = _scans()
    images, labels = scans.float().reshape(-1, 1, 8, 8) / 8 - 1, digit.long()
    order = torch.randperm(len(images), generator=generator(SPLIT_SEED))
    train, test = order[:TRAIN_IMAGES], order[TRAIN_IMAGES:]
    return Images(images[train], labels[train]), Images(images[test], labels[test])


@cache
def digits() -> Task:
    """N(0, I) to 8 x 8 digits in [-1, 1]; statistics against the 1,437 training images, ``data`` row from the 360 held out."""
    train, test = split()
    flat = train.images.flatten(1)
    return Task(
        name="digits",
        version=1,
        summary="N(0,I) to 8x8 handwritten digits, 10 classes",
        kind="image",
        shape=(1, 8, 8),
        source=StandardNormal((1, 8, 8)),
        target=train,
        heldout=test,
        net={"name": "unet", "patch": 2, "channels": 24, "multipliers": (1, 2), "blocks": 1, "attention": (4,)},
        train={"steps": 3000, "batch_size": 128, "lr": 1e-3, "weight_decay": 1e-5, "ema": 0.999, "storage": "float16"},
        num_classes=10,
        source_mixture=GaussianMixture(torch.zeros(1, 64), torch.tensor(1.0)),
        target_mixture=GaussianMixture(flat, torch.tensor(ORACLE_STD)),
        extractor="digits/digits-cnn",
        levels=17,
    )
