"""Spaces: how samples become rows, what they provide, and that a task and its space say the same."""

import dataclasses

import numpy as np
import pytest
import torch

from fmbench.records.metric import BUILT_IN
from fmbench.records.needs import SPACE, known
from fmbench.registry import TASKS
from fmbench.tasks.space import ImageSpace, Space, VectorSpace

NAMES = ["gaussian-moons", "mixture-16d", "digits"]


@pytest.mark.parametrize("name", NAMES)
def test_flattening_keeps_every_number_in_its_row(name):
    task = TASKS.resolve(name)()
    points = task.target.sample(5, torch.Generator().manual_seed(0))
    flat = task.space.flatten(points)
    assert flat.shape == (5, task.dim)
    assert np.array_equal(flat, points.reshape(5, -1).numpy())
    assert len(list(task.space.show(points))) == 5
    assert task.space.describe()


def test_an_image_is_shown_pixel_by_pixel():
    image = torch.tensor([[[[-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]]])
    assert list(ImageSpace((1, 3, 2)).show(image)) == [" @\n@ \n  "]
    assert ImageSpace((1, 3, 2)).describe() == "3 x 2 images, grey"


def test_vectors_are_shown_by_their_first_numbers():
    assert list(VectorSpace((2,)).show(torch.tensor([[0.5, -1.0]]))) == ["(0.5, -1)"]
    assert next(VectorSpace((9,)).show(torch.zeros(1, 9))).endswith(", ...)")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_task_provides_can_be_made(name):
    task = TASKS.resolve(name)()
    made = {key: make() for key, make in task.provided().items()}
    assert all(value is not None for value in made.values())
    assert ("heldout" in made) == (not task.fresh)
    assert ("w2_squared" in made) == (task.w2_squared is not None)


def test_finite_data_are_the_same_for_every_seed_and_draws_are_not():
    digits, moons = (TASKS.resolve(name)() for name in ("digits", "gaussian-moons"))
    assert digits.distinct((3, 4, 5)) == (3,)
    assert moons.distinct((3, 4, 5)) == (3, 4, 5)
    assert torch.equal(digits.real(7, 3), digits.real(9, 4))
    assert not torch.equal(moons.real(7, 3), moons.real(7, 4))
    assert torch.equal(moons.real(9, 3)[:7], moons.real(7, 3))
    assert not torch.equal(moons.real(7, 3), moons.anchor(7, 3))


def test_a_kind_without_a_space_and_a_space_of_another_kind_or_shape_are_refused():
    task = TASKS.resolve("gaussian-moons")()
    fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.name != "space"}
    with pytest.raises(ValueError, match="a task of kind 'graph' needs a space of its own"):
        type(task)(**{**fields, "kind": "graph"})
    for wrong in (ImageSpace((1, 1, 2)), VectorSpace((3,))):
        with pytest.raises(ValueError, match="its space of"):
            type(task)(**fields, space=wrong)


def test_a_kind_of_task_is_a_name():
    with pytest.raises(ValueError, match="cannot name a kind of task"):
        type("Bad", (Space,), {"kind": "../up"})


def test_every_need_of_a_space_is_provided_by_some_space():
    wanted = {n for m in BUILT_IN.values() for need in m.needs for n in need.split("|") if known(n).of == SPACE}
    assert wanted == VectorSpace.provides | ImageSpace.provides
