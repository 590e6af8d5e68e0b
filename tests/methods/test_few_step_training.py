"""Few-step methods in real trainings: in slices, in the closed division, on the networks of every kind of task."""

from __future__ import annotations

import pytest
import torch

from fmbench.methods.base import Batch
from fmbench.noise import generator
from fmbench.records.recipe import closed, override
from fmbench.registry import METHODS, TASKS
from fmbench.training.run import train
from fmbench.zoo.building import build, parameters_in, require_closed_net
from fmbench.zoo.resolve import load

METHODS_OF_TWO_TIMES = ["meanflow", "imf", "split-meanflow", "shortcut"]
FEW_STEP = [*METHODS_OF_TWO_TIMES, "consistency", "consistency-distill"]
TASK = "gaussian-moons"


@pytest.mark.parametrize("task_name", ["gaussian-8gaussians", "mixture-64d", "digits"])
@pytest.mark.parametrize("name", FEW_STEP)
def test_the_built_network_is_within_the_closed_division(name: str, task_name: str) -> None:
    task, kind = TASKS.resolve(task_name)(), METHODS.resolve(name)
    recipe = closed(task, name)
    method = build(recipe, task, kind, name)
    require_closed_net(recipe, method, task, name)
    usual = parameters_in(build(closed(task, "cfm"), task, METHODS.resolve("cfm"), "cfm"))
    assert (parameters_in(method) > usual) == (name in METHODS_OF_TWO_TIMES)
    assert parameters_in(method) / usual < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW_STEP)
def test_a_batch_in_slices_trains_the_same(name: str, tmp_path) -> None:
    teacher = {"teacher": f"{TASK}/cfm"} if name == "consistency-distill" else {}
    recipe = override(closed(TASKS.resolve(TASK)(), name, **teacher), {"train.steps": 4, "train.batch_size": 32})
    found = [load(train(recipe, tmp_path / f"{k}", accumulate=k)).sample(64, steps=1) for k in (1, 3)]
    assert torch.allclose(*found, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS_OF_TWO_TIMES)
def test_labels_reach_the_network(name: str) -> None:
    task = TASKS.resolve("digits")()
    # With a power of 1 the loss is about 1 whatever the error is.
    recipe = closed(task, name, {"power": 0.0} if name in ("meanflow", "imf") else {}, conditional=True)
    method = build(recipe, task, METHODS.resolve(name), name)
    for p in method.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator(1))
    batch = method.batches(task, None, 16)(generator(2))
    assert batch.labels is not None
    other = Batch(batch.x0, batch.x1, (batch.labels + 1) % 10)
    with torch.no_grad():
        assert method.loss(batch, generator(3)) == method.loss(batch, generator(3))
        assert method.loss(batch, generator(3)) != method.loss(other, generator(3))
    x = method.sample(batch.x0, method.default, batch.cond)
    assert not torch.allclose(x, method.sample(batch.x0, method.default, other.cond))
