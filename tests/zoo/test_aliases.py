"""Other names of entries: one objective on a task is one entry, and the names that it had still load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fmbench.methods.base import Batch, Method
from fmbench.records.aliases import bundled, canonical, others, read_aliases
from fmbench.records.names import split_training
from fmbench.records.recipe import Recipe
from fmbench.registry import METHODS as METHODS_BY_NAME
from fmbench.registry import TASKS
from fmbench.storage.bundled import data_folder
from fmbench.training.run import train
from fmbench.zoo.building import build
from fmbench.zoo.catalogue import find, list_all
from fmbench.zoo.entry import WEIGHTS
from fmbench.zoo.resolve import load, resolve

METHODS = {"fm": "fm", "rf-1": "rectified-flow"}


TASKS_HERE = sorted({name.partition("/")[0] for name in bundled()} - {"mnist", "fashion-mnist"})
"""Tasks with aliases whose data come with the package."""
PINNED = {
    "mnist/fm": "3dce184b637dcf793812791710ebc6636e3c0d499c01e389ee330177d917249a",
    "mnist/rf-1": "729844b8cca05d9e3c32a23b9d3c5f7036e56c6fd520cfe0e30f3a5994c7591d",
    "fashion-mnist/fm": "eeadccb2acaa9c9c14dcc26cfeabe8",
    "fashion-mnist/rf-1": "e41d1c1185742f35bf641066e785fd",
    "digits/rf-1": "5ddbe6b8954629fc18b9314787ed5d83145c7679a1845981d35faf432f7932f7",
}
"""What these names loaded when they were entries."""


@pytest.mark.parametrize("task", TASKS_HERE)
def test_they_are_one_objective_bit_by_bit(task: str, tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    """Same recipe, same batches, same targets: after a few steps every weight is the same in every bit."""
    if task == "digits":
        net = dict(find("digits/cfm").recipe.net)
        small = {"net": {**net, "channels": 8}, "train.steps": 3}
    else:
        small = {"train.steps": 5}
    trained = {}
    for method in ("cfm", *METHODS.values()):
        out = train(replace(tiny_recipe(task, method, **small), division="open"), tmp_path / method)
        trained[method] = load_file(out / WEIGHTS)
    for method in METHODS.values():
        for name, weight in trained["cfm"].items():
            assert (trained[method][name] == weight).all(), f"{method}: {name}"


@pytest.mark.parametrize("task", sorted({name.partition("/")[0] for name in bundled()}))
def test_their_losses_are_the_same_on_every_batch(task: str) -> None:
    """Same network, batch and random numbers: the three methods give one loss, to the bit; no data set is needed."""
    recipe, definition = find(f"{task}/cfm").recipe, TASKS.resolve(task)()
    small = {"channels": 8} if recipe.net["name"] == "unet" else {}
    losses = set()
    for method in ("cfm", *METHODS.values()):
        own = replace(recipe, method={"name": method}, net={**recipe.net, **small}, weights=None, replicates=())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            made = build(own, definition, METHODS_BY_NAME.resolve(method), "here")
            assert isinstance(made, Method)
        random = torch.Generator().manual_seed(5)
        x0, x1 = (torch.randn(16, *definition.shape, generator=random) for _ in range(2))
        losses.add(made.loss(Batch(x0, x1), torch.Generator().manual_seed(7)).item())
    assert len(losses) == 1


def test_old_names_load_the_weights_that_they_had() -> None:
    for name, sha in PINNED.items():
        assert load(name).identity["weights_sha256"].startswith(sha)
    for name in ("mnist/fm@1", "fashion-mnist/rf-1@2"):
        with pytest.raises(ValueError, match=r"is one training, .*, and has no others"):
            resolve(name)
    assert resolve("mnist/fm@0").name == "mnist/cfm@1"


def test_every_name_leads_to_an_entry_and_hides_none() -> None:
    assert bundled(), "the zoo has other names"
    for other, own in bundled().items():
        assert other not in list_all() and split_training(own)[0] in list_all()
        assert find(other).name == own == resolve(other).name
        assert other.rpartition("/")[2] in others(own) and other.rpartition("/")[2] in others(
            split_training(own)[0], True
        )
        assert other.rpartition("/")[2] in METHODS
    assert find("digits/fm@1").recipe.train.seed == 1
    assert canonical("digits/rf-1@2") == "digits/cfm@2" and canonical("digits/none") == "digits/none"


def test_teachers_that_are_named_so_are_those_that_taught() -> None:
    for name in list_all():
        recipe = find(name).recipe
        if recipe.teacher in bundled():
            pins = [pinned.sha256 for pinned in find(str(recipe.teacher)).recipe.pins]
            for one in [recipe.made, *(replicate.made for replicate in recipe.replicates)]:
                assert one["teacher_sha256"] in pins, name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"digits/a" = 3', "must name an entry by task/entry"),
        ('"digits/a" = "b"', "must name an entry by task/entry"),
        ('"a" = "digits/b"', "must name an entry by task/entry"),
        ('"digits/a" = "digits/b"\n"digits/b" = "digits/c"', "must name an entry by task/entry"),
        ('"digits/.." = "digits/b"', "cannot name an entry"),
        ("a = [", "aliases.toml"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "aliases.toml").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_aliases(tmp_path / "aliases.toml")
    assert "\n" not in str(error.value)


def test_there_is_a_table_in_the_zoo() -> None:
    assert (data_folder("zoo") / "aliases.toml").is_file()
