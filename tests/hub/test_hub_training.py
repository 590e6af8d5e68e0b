"""Training on a dataset that the Hub serves: fetched once, streamed from the map, never held as floats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from server import HubServer
from tiny_dataset import Tiny

from fmbench.records.recipe import Recipe, closed, override
from fmbench.registry import TASKS
from fmbench.tasks import hub_images
from fmbench.tasks.base import StandardNormal, Task
from fmbench.tasks.hub_images import HubImages
from fmbench.training.run import train
from fmbench.zoo.entry import WEIGHTS

NET = {"name": "unet", "patch": 2, "channels": 8, "multipliers": (1,), "blocks": 1, "attention": ()}
BATCH = 12


@pytest.fixture
def recipe(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Three steps of bfloat16 on a conditional UNet, of a task whose pixels may not be read all at once."""
    task = Task(
        name="noise",
        version=1,
        summary="images of noise",
        kind="image",
        shape=tiny.dataset.shape,
        source=StandardNormal(tiny.dataset.shape),
        target=HubImages(tiny.dataset, "train"),
        heldout=HubImages(tiny.dataset, "test"),
        num_classes=10,
        levels=256,
    )
    monkeypatch.setitem(TASKS.table, task.name, "fmbench.tasks.hub_images:noise")
    monkeypatch.setattr(hub_images, "noise", lambda: task, raising=False)
    budget = {"train.steps": 3, "train.batch_size": BATCH, "train.precision": "bfloat16", "train.clip": 1.0}
    return override(closed(task, "ot-cfm", conditional=True), {"net": NET, **budget})


@pytest.mark.slow
def test_training_streams_from_the_cache(
    tiny: Tiny, recipe: Recipe, serve: Callable[..., HubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = serve(tiny.root)
    taken: list[int] = []
    take = HubImages.take

    def counted(self: HubImages, index: object) -> object:
        taken.append(len(index))  # type: ignore[arg-type]
        return take(self, index)  # type: ignore[arg-type]

    monkeypatch.setattr(HubImages, "take", counted)
    monkeypatch.setattr(HubImages, "points", lambda self: pytest.fail("the whole dataset was read as floats"))
    losses: list[float] = []
    train(recipe, tmp_path / "entry", report=lambda step, loss: losses.append(loss))
    assert taken == [BATCH] * 3
    assert len(losses) == 3
    assert len(hub.served) == 1  # the training split, once; the held-out one is not needed
    assert all(value.isfinite().all() for value in load_file(tmp_path / "entry" / WEIGHTS).values())


@pytest.mark.slow
def test_the_pixels_of_the_hub_are_what_is_learnt(
    tiny: Tiny, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run on the same pixels held in memory gives the same weights, bit for bit; a local copy needs no network."""
    monkeypatch.setenv("FMBENCH_DATA", str(tiny.root))
    train(recipe, tmp_path / "streamed")
    images, labels = TASKS.resolve("noise")().target.points()

    def drawn(self: HubImages, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.randint(len(images), (n,), generator=generator)
        return images[index], labels[index]

    monkeypatch.setattr(HubImages, "sample_labelled", drawn)
    train(recipe, tmp_path / "memory")
    assert (tmp_path / "streamed" / WEIGHTS).read_bytes() == (tmp_path / "memory" / WEIGHTS).read_bytes()
