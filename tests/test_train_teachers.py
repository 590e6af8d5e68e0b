"""Conditional teachers: pairs carry the labels that they were drawn for, and what has none is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fmbench.flows.flow import as_draws
from fmbench.methods.rectified_flow import Reflow, teacher_pairs
from fmbench.noise import generator
from fmbench.records.recipe import Recipe, read
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
from fmbench.shapes import as_condition
from fmbench.training.base_samples import remembering
from fmbench.training.run import train
from fmbench.zoo.entry import WEIGHTS
from fmbench.zoo.resolve import load

MakeRecipe = Callable[..., Recipe]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reflow", "distill"])
def test_a_conditional_teacher_teaches_every_class(
    method: str, zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    """Pairs without labels would leave the rows of the classes as they were, and the student would still be sampled with them."""
    teacher = "digits/tiny-conditional"
    recipe = tiny_recipe("digits", method, conditional=True, teacher=teacher, **{"method.pairs": 256})
    out = train(recipe, tmp_path / "student")
    before = load_file(zoo / "digits" / "tiny-conditional" / WEIGHTS)["net.embedding.weight"]
    after = load_file(out / WEIGHTS)["net.embedding.weight"]
    assert ((after - before).abs().amax(dim=1) > 1e-5)[:10].all()  # every class is trained, beyond weight decay
    assert read(out / "recipe.toml").made["teacher_sha256"] == load(teacher).identity["weights_sha256"]
    student = load(str(out))
    one, other = (student.sample(4, labels=torch.full((4,), label)) for label in (1, 7))
    assert not torch.equal(one, other)


def test_labelled_pairs_are_what_the_teacher_draws_for_their_labels(zoo: Path) -> None:
    task, teacher, sampler = TASKS.resolve("digits")(), load("digits/tiny-conditional").method, Sampler("euler", 3)
    plain, pairs = (teacher_pairs(task, teacher, 300, sampler, labelled) for labelled in (False, True))
    assert plain.labels is None and pairs.labels is not None
    assert torch.equal(plain.x0, pairs.x0), "labels must not move the noise"
    again = teacher.sample(as_draws(pairs.x0), sampler, as_condition(pairs.labels))
    assert torch.allclose(pairs.x1, again, atol=1e-5) and not torch.allclose(pairs.x1, plain.x1, atol=1e-3)
    assert set(pairs.labels.tolist()) == set(range(10))
    aligned = Reflow(teacher.net, pairs=300).batches(task, teacher, 64)(generator(3))
    for x0, x1, label in zip(aligned.x0, aligned.x1, aligned.labels, strict=True):
        (row,) = (pairs.x0 == x0).flatten(1).all(1).nonzero()[0]
        assert label == pairs.labels[row] and x1.shape == pairs.x1[row].shape


def test_the_labels_of_pairs_are_part_of_the_name_of_their_samples(zoo: Path, tmp_path: Path) -> None:
    task, teacher, sampler = TASKS.resolve("digits")(), load("digits/tiny-conditional").method, Sampler("euler", 1)
    with remembering(teacher, tmp_path) as base:
        first = teacher_pairs(task, base, 256, sampler, labelled=True)
        teacher_pairs(task, base, 256, sampler)
    assert len(list(tmp_path.iterdir())) == 2
    with remembering(teacher, tmp_path) as base:
        assert torch.equal(teacher_pairs(task, base, 256, sampler, labelled=True).x1, first.x1)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_conditional_student_needs_labels_from_somewhere(zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    plain = train(tiny_recipe("digits", "cfm", **{"train.steps": 1}), tmp_path / "plain")
    for conditional, teacher, words in (
        (True, str(plain), "it takes no labels, and the recipe is conditional"),
        (False, "digits/tiny-conditional", "it takes labels; set conditional = true"),
    ):
        recipe = tiny_recipe("digits", "reflow", conditional=conditional, teacher=teacher, **{"method.pairs": 256})
        with pytest.raises(ValueError, match=words):
            train(recipe, tmp_path / "student")
    # A method of the user's own may take labels from the data; one whose batches have none is refused at the first step.
    own = f"{Path(__file__).with_name('own_methods.py')}:Follows"
    with pytest.raises(ValueError, match="carry no labels, and the recipe is conditional"):
        train(tiny_recipe("digits", own, conditional=True, teacher=str(plain)), tmp_path / "own")
