"""The tasks' view of the cache: float32 in [-1, 1], lazily, by the interface of every finite image set."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from server import HubServer
from tiny_dataset import Tiny

from fmbench.noise import generator
from fmbench.records.recipe import closed
from fmbench.registry import NETS
from fmbench.shapes import Condition
from fmbench.tasks.base import Task
from fmbench.tasks.digits import Images
from fmbench.tasks.hub_data import load
from fmbench.tasks.hub_images import HubImages, cifar10, fashion_mnist, mnist

TASKS = [mnist, fashion_mnist, cifar10]


@pytest.fixture
def images(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> HubImages:
    monkeypatch.setenv("FMBENCH_DATA", str(tiny.root))
    return HubImages(tiny.dataset, "train")


def test_points_are_the_stored_pixels_on_minus_one_to_one(images: HubImages, tiny: Tiny) -> None:
    x, labels = images.points()
    stored = load(tiny.dataset, "train")
    assert (x.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    np.testing.assert_array_equal(((x + 1) * 127.5).round().numpy().astype(np.uint8), stored.images)
    np.testing.assert_array_equal(labels.numpy(), stored.labels)


def test_the_map_to_floats_is_affine_and_symmetric() -> None:
    """255 - p must map to -x: the end points are exact and no grey level is shifted."""
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    fixed = HubImages.__new__(HubImages)
    fixed.__dict__["arrays"] = type("Arrays", (), {"images": levels, "labels": np.zeros(256, np.uint8)})()
    x = fixed.take(np.arange(256))[0].flatten()
    torch.testing.assert_close(x, -x.flip(0), atol=1e-7, rtol=0)
    torch.testing.assert_close(x.diff(), torch.full((255,), 2 / 255), atol=1e-6, rtol=0)


def test_the_same_generator_draws_what_images_in_memory_draw(images: HubImages) -> None:
    in_memory = Images(*images.points())
    for n in (1, 100):
        ours, theirs = images.sample_labelled(n, generator(3, n)), in_memory.sample_labelled(n, generator(3, n))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        torch.testing.assert_close(images.sample(n, generator(3, n)), theirs[0], rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_batches_join_to_points(images: HubImages, size: int) -> None:
    batches = list(images.batches(size))
    assert max(len(x) for x, _ in batches) == min(size, 40)
    x, labels = images.points()
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), x, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([y for _, y in batches]), labels, rtol=0, atol=0)


def test_samples_are_copies(images: HubImages) -> None:
    before = images.points()[0]
    images.sample(40, generator(1)).zero_()
    next(iter(images.batches(40)))[0].zero_()
    torch.testing.assert_close(images.points()[0], before, rtol=0, atol=0)


def test_nothing_is_fetched_before_it_is_needed(tiny: Tiny, serve: Callable[..., HubServer]) -> None:
    hub = serve(tiny.root)
    images = HubImages(tiny.dataset, "train")
    assert len(images) == 40
    assert hub.log == []
    images.sample(1, generator(0))
    assert len(hub.served) == 1


def test_pickling_takes_the_recipe_and_not_the_pixels(images: HubImages) -> None:
    x, labels = images.points()
    data = pickle.dumps(images)
    assert len(data) < 1000 < x.numel()
    again = pickle.loads(data)
    torch.testing.assert_close(again.points(), (x, labels), rtol=0, atol=0)


def test_a_batch_allocates_for_the_batch_only(tmp_path: Path) -> None:
    rows = 20_000
    pixels = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (rows, 3, 32, 32))
    images = HubImages.__new__(HubImages)
    images.__dict__["arrays"] = type("Arrays", (), {"images": pixels, "labels": np.zeros(rows, np.uint8)})()
    images.take(np.arange(2))
    tracemalloc.start()
    try:
        images.take(np.arange(0, rows, rows // 100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 100 * 3 * 32 * 32 < pixels.nbytes


def test_an_unknown_split_is_refused_at_once(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="no split 'dev'"):
        HubImages(tiny.dataset, "dev")


@pytest.mark.parametrize("make", TASKS)
def test_tasks_are_complete_without_touching_the_network(make: Callable[[], Task]) -> None:
    task = make()
    assert task is make()
    assert (task.kind, task.num_classes, task.finite) == ("image", 10, True)
    assert task.source.sample(2, generator(0)).shape == (2, *task.shape)
    assert [len(part) for part in (task.target, task.heldout)] == [50_000 if task.name == "cifar10" else 60_000, 10_000]  # type: ignore[arg-type]
    recipe = closed(task, "ot-cfm")
    assert recipe.train.steps * recipe.train.batch_size in (384_000, 51_200_000)


@pytest.mark.parametrize("make", [mnist, fashion_mnist])
def test_the_closed_network_fits_the_images(make: Callable[[], Task], seeded: Callable[..., torch.nn.Module]) -> None:
    task = make()
    parameters = {k: v for k, v in task.net.items() if k != "name"}
    net = seeded(lambda: NETS.resolve("unet")(task.shape, num_classes=10, **parameters))
    x = torch.zeros(2, *task.shape)
    assert net(x, torch.zeros(2), cond=Condition(torch.zeros(2, dtype=torch.int64))).shape == x.shape
    assert sum(p.numel() for p in net.parameters()) < 1_000_000


@pytest.mark.slow
def test_the_large_network_fits_cifar10() -> None:
    task = cifar10()
    parameters = {k: v for k, v in task.net.items() if k != "name"}
    with torch.device("meta"):
        net = NETS.resolve("unet")(task.shape, **parameters)
        x = torch.zeros(2, *task.shape)
        assert net(x, torch.zeros(2)).shape == x.shape
    assert 30e6 < sum(p.numel() for p in net.parameters()) < 40e6
