"""Reference statistics: equal to NumPy's, cached by content, recomputed when damaged; features spilled to disk."""

import errno
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch

from fmbench.features.extractor import Extractor, Rgb
from fmbench.features.hosted import clean_fid_statistics
from fmbench.features.store import (
    pixel_sha256,
    reference_features,
    reference_statistics,
    spill_features,
    stream_statistics,
)
from fmbench.metrics.frechet import frechet_distance
from fmbench.registry import TASKS
from fmbench.storage.cache import cache_root
from fmbench.zoo.extractors import load_extractor


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


def test_statistics_equal_numpy_and_are_computed_once(task, extractor, network):
    features = extractor.features(task.target.points()[0]).astype(np.float64)
    network.seen = 0
    moments = reference_statistics(task, extractor)
    assert network.seen == 1472  # 1,437 images, the last chunk of each batch of 1,000 filled up
    assert moments.n == 1437
    assert np.abs(moments.mean - features.mean(axis=0)).max() < 1e-13
    assert np.abs(moments.cov - np.cov(features, rowvar=False)).max() < 1e-12
    again = reference_statistics(task, extractor)
    assert network.seen == 1472
    assert np.array_equal(again.cov, moments.cov) and np.array_equal(again.mean, moments.mean) and again.n == 1437


def damage_tail(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [damage_tail, lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_cache_is_computed_again(task, extractor, network, tmp_path, damage):
    moments = reference_statistics(task, extractor, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    network.seen = 0
    again = reference_statistics(task, extractor, tmp_path)
    assert network.seen == 1472 and np.array_equal(again.cov, moments.cov)
    network.seen = 0
    reference_statistics(task, extractor, tmp_path)
    assert network.seen == 0


def test_the_name_depends_on_pixels_weights_and_resizing(task, extractor, tmp_path):
    other_pixels = replace(task, target=task.heldout)
    resized = replace(extractor, preprocessing=replace(extractor.preprocessing, resize="tf1-bilinear"))
    reference_statistics(task, extractor, tmp_path)
    for arguments in ((other_pixels, extractor), (task, resized), (task, replace(extractor, sha256="1" * 64))):
        before = len(list(tmp_path.iterdir()))
        reference_statistics(*arguments, tmp_path)
        assert len(list(tmp_path.iterdir())) == before + 1


def test_spilled_features_are_mapped_and_feed_the_statistics(task, extractor, network):
    expected = extractor.features(task.target.points()[0])
    features = reference_features(task, extractor)
    assert isinstance(features, np.memmap) and features.dtype == np.float32 and not features.flags.writeable
    assert np.array_equal(features, expected)
    network.seen = 0
    moments = reference_statistics(task, extractor)
    assert np.array_equal(reference_features(task, extractor), expected)
    assert network.seen == 0
    direct = stream_statistics(iter(task.target.points()[0].split(1000)), extractor)
    assert np.array_equal(moments.cov, direct.cov) and np.array_equal(moments.mean, direct.mean)


def test_damaged_features_are_computed_again(task, extractor, network, tmp_path):
    path = tmp_path / "x.f32"
    batches = lambda: iter(task.heldout.points()[0].split(100))  # noqa: E731
    expected = np.array(spill_features(batches(), extractor, path))
    path.write_bytes(damage_tail(path.read_bytes()))
    network.seen = 0
    assert np.array_equal(spill_features(batches(), extractor, path), expected) and network.seen > 0


def test_a_full_disk_leaves_no_features(task, extractor, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="no space left") as caught:
            spill_features(iter([task.heldout.points()[0]]), extractor, tmp_path / "x.f32")
        with pytest.raises(OSError, match="no space left"):
            reference_statistics(task, extractor, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_endless_distribution_has_no_reference_statistics(extractor):
    with pytest.raises(ValueError, match="no finite set of images"):
        reference_statistics(TASKS.resolve("gaussian-moons")(), extractor)


def test_a_hub_split_is_pinned_without_reading_it():
    target = TASKS.resolve("digits")().target
    assert pixel_sha256(target) == pixel_sha256(target)
    from fmbench.tasks.hub_images import CIFAR10, HubImages

    assert pixel_sha256(HubImages(CIFAR10, "train")) == CIFAR10.split("train").sha256


def test_digit_statistics_score_the_training_images_zero(task):
    extractor = load_extractor("digits/digits-cnn")
    moments = reference_statistics(task, extractor)
    again = stream_statistics(iter([task.target.points()[0]]), extractor)
    assert frechet_distance(moments.mean, moments.cov, again.mean, again.cov) < 1e-10


def test_hosted_statistics_are_loaded_or_refused_in_one_line(mirror, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6))
    np.savez(tmp_path / "good.npz", mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False))
    good = (tmp_path / "good.npz").read_bytes()
    np.savez(tmp_path / "bad.npz", mu=x.mean(axis=0), sigma=np.zeros(3))
    bad = (tmp_path / "bad.npz").read_bytes()
    name = "{}_legacy_tensorflow_train_32.npz"
    mirror({name.format("good"): good, name.format("bad"): bad, name.format("page"): b"<html>"})
    hosted = clean_fid_statistics("good", "train", 32)
    assert np.array_equal(hosted.cov, np.cov(x, rowvar=False))
    assert frechet_distance(hosted.mean, hosted.cov, x.mean(axis=0), np.cov(x, rowvar=False)) < 1e-12
    for broken in ("bad", "page"):
        with pytest.raises(ValueError, match=r"^[^\n]*holds no statistics[^\n]*deleted$"):
            clean_fid_statistics(broken, "train", 32)
        assert not (cache_root() / "statistics" / name.format(broken)).exists()
    with pytest.raises(FileNotFoundError, match="is gone"):
        clean_fid_statistics("cifar10", "train", 32)
    with pytest.raises(ValueError, match="no mode 'tidy'"):
        clean_fid_statistics("cifar10", "train", 32, "tidy")
