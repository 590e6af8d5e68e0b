"""Features of reference images: cached by content, computed again when damaged, mapped from disk."""

import errno
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch

from fmbench.features.extractor import Extractor, Rgb
from fmbench.features.store import (
    pixel_sha256,
    reference_features,
    spill_features,
)
from fmbench.registry import TASKS


class Counting:
    """A network of 12 features that counts the images it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, x):
        self.seen += len(x)
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1), None


@pytest.fixture
def network():
    return Counting()


@pytest.fixture
def extractor(network):
    return Extractor("tiny", "0" * 64, network, Rgb(16, "bilinear", (128.0,) * 3, (128.0,) * 3), chunk=64)


@pytest.fixture(scope="module")
def task():
    return TASKS.resolve("digits")()


def test_features_are_computed_once_and_mapped(task, extractor, network):
    expected = extractor.features(task.target.points()[0])
    network.seen = 0
    features = reference_features(task, extractor)
    assert network.seen == 1472  # 1,437 images, the last chunk of each batch of 1,000 filled up
    assert isinstance(features, np.memmap) and features.dtype == np.float32 and not features.flags.writeable
    assert np.array_equal(features, expected)
    assert np.array_equal(reference_features(task, extractor), expected)
    assert network.seen == 1472


def test_the_name_depends_on_pixels_weights_and_resizing(task, extractor, tmp_path):
    other_pixels = replace(task, target=task.heldout)
    resized = replace(extractor, preprocessing=replace(extractor.preprocessing, resize="tf1-bilinear"))
    reference_features(task, extractor, tmp_path)
    for arguments in ((other_pixels, extractor), (task, resized), (task, replace(extractor, sha256="1" * 64))):
        before = len(list(tmp_path.glob("*.f32")))
        reference_features(*arguments, tmp_path)
        assert len(list(tmp_path.glob("*.f32"))) == before + 1


def damage_tail(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [damage_tail, lambda data: data[: len(data) // 2], lambda data: b""])
def test_damaged_features_are_computed_again(task, extractor, network, tmp_path, damage):
    path = tmp_path / "x.f32"
    batches = lambda: iter(task.heldout.points()[0].split(100))  # noqa: E731
    expected = np.array(spill_features(batches(), extractor, path))
    path.write_bytes(damage(path.read_bytes()))
    network.seen = 0
    assert np.array_equal(spill_features(batches(), extractor, path), expected) and network.seen > 0


def test_a_full_disk_leaves_no_features(task, extractor, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="no space left") as caught:
            spill_features(iter([task.heldout.points()[0]]), extractor, tmp_path / "x.f32")
        with pytest.raises(OSError, match="no space left"):
            reference_features(task, extractor, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_endless_distribution_has_no_reference_features(extractor):
    with pytest.raises(ValueError, match="no finite set of images"):
        reference_features(TASKS.resolve("gaussian-moons")(), extractor)


def test_a_hub_split_is_pinned_without_reading_it():
    target = TASKS.resolve("digits")().target
    assert pixel_sha256(target) == pixel_sha256(target)
    from fmbench.tasks.hub_images import CIFAR10, HubImages

    assert pixel_sha256(HubImages(CIFAR10, "train")) == CIFAR10.split("train").sha256
