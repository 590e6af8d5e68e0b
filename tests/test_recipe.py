"""Recipes: what is not understood is refused by name, what is understood survives the round trip."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fmbench.records.recipe import (
    Recipe,
    Training,
    Weights,
    check_table,
    closed,
    matches,
    override,
    parse,
    read,
    require_closed,
)
from fmbench.registry import TASKS
from fmbench.zoo import catalogue

MNIST_OT_CFM = "5c223584f38152322f4459a0b1765b0e265d170bd26578ff83efe95cee5db093"
"""Identity of the recipe that made the pinned weights of mnist/ot-cfm."""
GOOD: dict[str, Any] = {
    "task": "mixture-2d",
    "method": {"name": "cfm", "sigma": 0.1},
    "net": {"name": "mlp", "width": 8},
    "train": {"steps": 5, "lr": 0.01},
}


def changed(**tables: Any) -> dict[str, Any]:
    return {**GOOD, **tables}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(tsk="x"), ["unknown key 'tsk'", "nearest: task", "allowed: ", "teacher"]),
        (changed(train={"step": 5}), ["[train]", "unknown key 'step'", "nearest: steps", "batch_size"]),
        (changed(train={"steps": "many"}), ["[train]", "steps must be int", "'many' (str)"]),
        (changed(train={"steps": 1.5}), ["steps must be int", "1.5 (float)"]),
        (changed(train={"steps": True}), ["steps must be int", "True (bool)"]),
        (changed(train={"steps": 0}), ["[train]", "steps must be at least 1, got 0"]),
        (changed(train={"batch_size": -1}), ["batch_size must be at least 1, got -1"]),
        (changed(train={"warmup": -1}), ["warmup must be at least 0, got -1"]),
        (changed(train={"ema": 2.0}), ["ema must be at least 0 and below 1, got 2.0"]),
        (changed(train={"clip": math.nan}), ["clip must be at least 0, got nan"]),
        (changed(train={"lr": math.inf}), ["lr must be at least 0, got inf"]),
        (changed(train={"storage": "int8"}), ["storage must be one of float32, float16", "'int8'"]),
        (changed(train={"schedule": "step"}), ["schedule must be one of cosine, constant", "'step'"]),
        (changed(train=5), ["[train]", "expected a table, got 5"]),
        (changed(task=3), ["task must be str", "3 (int)"]),
        (changed(conditional="yes"), ["conditional must be bool", "'yes' (str)"]),
        (changed(division="half-open"), ["division must be one of closed, open, tool", "'half-open'"]),
        (changed(method={"sigma": 1.0}), ["[method]: missing name"]),
        (changed(method="cfm"), ["method must be", "'cfm' (str)"]),
        (changed(net={"width": 3}), ["[net]: missing name"]),
        (changed(schema=99), ["schema 99 is not supported", "reads 1"]),
        (changed(weights={"file": "a"}), ["[weights]", "missing sha256, bytes, parameters"]),
        ({"task": "digits"}, ["missing method"]),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, list) else "",
)
def test_errors_name_file_key_and_allowed(content: dict, words: list[str], tmp_path: Path) -> None:
    import tomli_w

    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(content))
    with pytest.raises(ValueError, match=r"recipe\.toml") as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_missing_and_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(FileNotFoundError, match=f"no recipe at {path}"):
        read(path)
    path.write_text("task = [")
    with pytest.raises(ValueError, match=f"{path}: not valid TOML"):
        read(path)
    path.write_bytes(b"task = '\xff'")
    with pytest.raises(ValueError, match=f"{path} is no recipe: it is not UTF-8 text"):
        read(path)
    path.write_text(f"task = 'digits'\n[train]\nsteps = {'9' * 5000}")
    with pytest.raises(ValueError, match=f"{path}: not valid TOML"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=f"{path} is no regular file"):
        read(path)


def test_round_trip_through_toml(tmp_path: Path) -> None:
    recipe = parse(changed(teacher="mixture-2d/other", conditional=True, made={"seconds": 1.5}))
    recipe = dataclasses.replace(recipe, weights=Weights("m.safetensors", "ab" * 32, 3, 2))
    recipe.save(tmp_path / "recipe.toml")
    assert read(tmp_path / "recipe.toml") == recipe
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.toml"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TASKS.all()))
def test_closed_recipes_survive_the_round_trip(name: str) -> None:
    recipe = closed(TASKS.resolve(name)(), "cfm", {"sigma": 0.1})
    again = parse(tomllib.loads(recipe.to_toml()))
    assert again.identity() == recipe.identity()
    assert again.train == recipe.train
    assert recipe.division == "closed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(catalogue.data_folder("zoo").glob("*/*/recipe.toml")), ids=lambda p: str(p.parent.name)
)
def test_what_calls_itself_closed_has_the_network_and_budget_of_its_task(path: Path) -> None:
    recipe = read(path)
    require_closed(recipe, TASKS.resolve(recipe.task)(), str(path))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_precision_is_free_in_the_closed_division(precision: str) -> None:
    """A CPU without units for bfloat16 takes thirteen times as long with it: a recipe may leave that out, or to the device."""
    task = TASKS.resolve("mnist")()
    recipe = override(closed(task, "cfm"), {"train.precision": precision})
    assert recipe.division == "closed"
    require_closed(recipe, task, "r")
    assert parse(tomllib.loads(recipe.to_toml())).identity() == recipe.identity()


def test_the_choice_of_precision_by_the_device_changes_no_recipe_that_made_its_own() -> None:
    pinned = read(catalogue.data_folder("zoo") / "mnist" / "ot-cfm" / "recipe.toml")
    assert pinned.train.precision == "bfloat16"
    assert pinned.identity() == MNIST_OT_CFM
    assert override(pinned, {"train.precision": "auto"}).identity() != pinned.identity()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train.steps": 2}, "train.steps is 2, not 10000 as mixture-2d has it"),
        ({"net.width": 9}, "net.width is 9, not 64"),
        ({"net": {"name": "mlp", "dropout": 0.5}}, "net.activation is None, not selu"),
    ],
)
def test_other_networks_or_budgets_cannot_call_themselves_closed(change: dict, words: str) -> None:
    task = TASKS.resolve("mixture-2d")()
    require_closed(override(closed(task, "cfm"), {"train.seed": 7}), task, "r")
    claimed = override(closed(task, "cfm"), {**change, "division": "closed"})
    with pytest.raises(ValueError, match=f'r: division is closed, but {words}.*; set division = "open"'):
        require_closed(claimed, task, "r")


def test_identity_is_what_determines_the_weights() -> None:
    recipe = parse(GOOD)
    same = [dataclasses.replace(recipe, license="mit"), dataclasses.replace(recipe, made={"seconds": 2.0})]
    same.append(dataclasses.replace(recipe, weights=Weights("m", "ab", 3, 2)))
    assert {r.identity() for r in same} == {recipe.identity()}
    others = [
        override(recipe, {key: value})
        for key, value in {
            "train.seed": 1,
            "method.sigma": 0.2,
            "net.width": 9,
            "teacher": "a/b",
            "task": "digits",
        }.items()
    ]
    assert len({recipe.identity(), *(r.identity() for r in others)}) == 6


def test_defaults_are_the_documented_ones() -> None:
    recipe = parse({"task": "digits", "method": {"name": "oracle"}})
    assert recipe == Recipe(task="digits", method={"name": "oracle"}, train=Training())
    assert (recipe.division, recipe.conditional, recipe.teacher) == ("closed", False, None)


@pytest.mark.parametrize(
    ("settings", "division"),
    [
        ({"train.steps": 7}, "open"),
        ({"net.width": 9}, "open"),
        ({"net": {"name": "mlp", "width": 16}}, "open"),
        ({"train.seed": 3}, "closed"),
        ({"method.sigma": 0.5}, "closed"),
        ({"teacher": "mixture-2d/x"}, "closed"),
    ],
    ids=str,
)
def test_other_networks_or_budgets_leave_the_closed_division(settings: dict, division: str) -> None:
    before = parse(GOOD)
    after = override(before, settings)
    assert after.division == division
    for dotted, value in settings.items():
        found: Any = dataclasses.asdict(after)
        for part in dotted.split("."):
            found = found[part]
        assert found == value
    assert before == parse(GOOD)
    assert override(dataclasses.replace(before, division="tool"), settings).division == "tool"


def test_overrides_drop_what_was_made() -> None:
    made = dataclasses.replace(parse(GOOD), weights=Weights("m", "ab", 3, 2), made={"seconds": 2.0})
    after = override(made, {"train.seed": 1})
    assert after.weights is None
    assert after.made == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train.stps": 1}, ["unknown key 'stps'", "steps"]),
        ({"train.steps": "x"}, ["steps must be int"]),
        ({"trian.steps": 1}, ["unknown recipe table 'trian'", "method, net, train"]),
        ({"train": 3}, ["expected a table, got 3"]),
    ],
)
def test_bad_overrides_are_named(settings: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match="recipe") as caught:
        override(parse(GOOD), settings)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (True, float, False),
        (True, bool, True),
        (1, bool, False),
        ([1, 2], tuple[int, ...], True),
        ([1, "a"], tuple[int, ...], False),
        (3, tuple[int, ...], False),
        (None, str | None, True),
        (3, str | None, False),
        ({"a": 1}, Any, True),
    ],
)
def test_toml_values_against_hints(value: Any, hint: Any, fits: bool) -> None:
    assert matches(value, hint) is fits


def test_check_table_accepts_what_fits() -> None:
    check_table({"a": 1, "b": [2]}, {"a": float, "b": tuple[int, ...], "c": str}, "here")
    with pytest.raises(ValueError, match=r"here: b must be tuple\[int, \.\.\.\], got \['x'\] \(list\)"):
        check_table({"b": ["x"]}, {"b": tuple[int, ...]}, "here")
