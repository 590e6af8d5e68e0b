"""Other names of entries: one objective on a task is one entry, and the names that it had still load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fmbench.records.aliases import bundled, canonical, others, read_aliases
from fmbench.records.recipe import Recipe
from fmbench.storage.bundled import data_folder
from fmbench.training.run import train
from fmbench.zoo.catalogue import find, list_all
from fmbench.zoo.entry import WEIGHTS
from fmbench.zoo.resolve import resolve

METHODS = {"fm": "fm", "rf-1": "rectified-flow"}


@pytest.mark.parametrize("task", sorted({name.partition("/")[0] for name in bundled()}))
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


def test_every_name_leads_to_an_entry_and_hides_none() -> None:
    assert bundled(), "the zoo has other names"
    for other, own in bundled().items():
        assert other not in list_all() and own in list_all()
        assert find(other).name == own == resolve(other).name
        assert other.rpartition("/")[2] in others(own)
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
