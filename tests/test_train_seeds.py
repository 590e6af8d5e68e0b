"""Further trainings of an entry: the same weights however they are made, one name each, refused where they do not belong."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fmbench.cli import main
from fmbench.evaluation.plan import plan
from fmbench.records import protocol
from fmbench.records.names import check_training_name, split_training
from fmbench.records.recipe import Recipe, parse, read
from fmbench.storage.files import file_sha256
from fmbench.training import seeds
from fmbench.training.run import train
from fmbench.zoo.catalogue import find, open_folder
from fmbench.zoo.resolve import load, resolve

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-moons"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe) -> Path:
    """An entry of three trainings."""
    out = tmp_path_factory.mktemp("entries") / "several"
    recipe = tiny_recipe(TASK, "cfm")
    assert seeds.train_seeds(seeds.missing(recipe, out, 3), out, finished)
    return out


def finished(recipe: Recipe, folder: Path) -> bool:
    train(recipe, folder)
    return True


def test_every_training_is_the_one_that_its_seed_alone_gives(
    several: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    alone = train(tiny_recipe(TASK, "cfm", **{"train.seed": 2}), tmp_path / "alone")
    entry = open_folder(several)
    assert entry.recipe.trainings == 3 and [one.seed for one in entry.recipe.replicates] == [1, 2]
    assert file_sha256(several / "model-2.safetensors") == file_sha256(alone / "model.safetensors")
    assert entry.recipe.identity() == tiny_recipe(TASK, "cfm").identity(), "trainings are no part of the identity"
    assert not (several / seeds.WORKSPACES).exists()
    assert "3, with seed 0 (above) and 1, 2" in (several / "README.md").read_text()


def test_a_name_with_an_index_is_one_training(several: Path) -> None:
    hashes = [load(f"{several}@{k}").identity["weights_sha256"] for k in range(3)]
    assert hashes == [pinned.sha256 for pinned in open_folder(several).recipe.pins]
    assert load(str(several)).identity["weights_sha256"] == hashes[0]
    assert resolve(f"{several}@2").name == f"{TASK}/several@2"
    assert find(f"{several}@1").recipe.train.seed == 1
    with pytest.raises(ValueError, match="training 3 is not there: the recipe pins 3 trainings"):
        resolve(f"{several}@3")


def test_a_benchmark_runs_as_many_trainings_as_it_asks_for(several: Path) -> None:
    spec = protocol.read("quick")
    spec = replace(spec, tasks=(TASK,))
    for asked, names in ((1, ["several"]), (2, ["several", "several@1"]), (9, ["several", "several@1", "several@2"])):
        planned = plan(replace(spec, trainings=asked), [str(several)])
        assert [one.model.name.rpartition("/")[2] for one in planned if one.model] == names
    (one,) = [p.model for p in plan(replace(spec, trainings=9), [f"{several}@1"]) if p.model]
    assert one.name == f"{TASK}/several@1"


def test_what_is_there_stays_and_what_was_interrupted_goes_on(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    recipe, out = tiny_recipe(TASK, "cfm"), tmp_path / "entry"
    train(recipe, out)
    (planned,) = seeds.missing(recipe, out, 2)
    train(planned.recipe, planned.folder, max_steps=2)
    assert not seeds.train_seeds([planned], out, lambda *_: False)
    assert open_folder(out).recipe.trainings == 1 and any(planned.folder.iterdir())
    assert seeds.train_seeds(seeds.missing(recipe, out, 2), out, finished)
    whole = train(replace(recipe, train=replace(recipe.train, seed=1)), tmp_path / "whole")
    assert file_sha256(out / "model-1.safetensors") == file_sha256(whole / "model.safetensors")
    assert seeds.missing(recipe, out, 2) == []


def test_adopted_trainings_are_of_the_same_recipe_and_of_another_seed(
    several: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    before = (several / "recipe.toml").read_bytes()
    other = train(tiny_recipe(TASK, "cfm", **{"train.seed": 5, "train.lr": 0.5}), tmp_path / "other")
    again = train(tiny_recipe(TASK, "cfm", **{"train.seed": 1}), tmp_path / "again")
    for folder, words in ((other, "of another recipe"), (again, "two trainings have the seed 1")):
        with pytest.raises(ValueError, match=words):
            seeds.adopt(several, folder)
    assert (several / "recipe.toml").read_bytes() == before


def test_a_chain_is_repeated_as_a_whole(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    recipe = tiny_recipe(TASK, "rectified-flow")
    seeds.train_seeds(seeds.missing(recipe, teacher, 2), teacher, finished)
    taught = tiny_recipe(TASK, "reflow", teacher=str(teacher), **{"method.pairs": 256})
    planned = seeds.missing(taught, student, 3)
    assert [one.recipe.teacher for one in planned] == [str(teacher), f"{teacher}@1", str(teacher)]
    assert seeds.train_seeds(planned[:2], student, finished)
    pins = [pinned.sha256 for pinned in open_folder(teacher).recipe.pins]
    found = read(student / "recipe.toml")
    assert [found.made["teacher_sha256"], found.replicates[0].made["teacher_sha256"]] == pins
    stranger = train(tiny_recipe(TASK, "rectified-flow", **{"train.seed": 9}), tmp_path / "stranger")
    odd = train(replace(taught, teacher=str(stranger), train=replace(taught.train, seed=7)), tmp_path / "odd")
    with pytest.raises(
        ValueError, match=r"taught by the weights .*, and training 2 of .* starts from .*, which has others"
    ):
        seeds.adopt(student, odd)


def test_one_training_is_made_again_from_the_teacher_that_it_had(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    recipe = tiny_recipe(TASK, "rectified-flow")
    seeds.train_seeds(seeds.missing(recipe, teacher, 2), teacher, finished)
    taught = tiny_recipe(TASK, "reflow", teacher=str(teacher), **{"method.pairs": 256})
    seeds.train_seeds(seeds.missing(taught, student, 2), student, finished)
    again = tmp_path / "again"
    assert main(["train", f"{student}@1", "--out", str(again), "--device", "cpu"]) == 0
    assert file_sha256(again / "model.safetensors") == file_sha256(student / "model-1.safetensors")


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_what_counts_as_finished_is_looked_at(damage: str, several: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(several, folder)
    file = folder / "model-1.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises((ValueError, FileNotFoundError), match=r"model-1\.safetensors"):
        seeds.missing(replace(open_folder(folder).recipe, replicates=()), folder, 4)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_gives_the_same_bytes(
    several: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    """A real process with three seeds, killed again and again until one of its starts reaches the end."""
    out = tmp_path / "entry"
    out.mkdir()
    tiny_recipe(TASK, "cfm").save(out / "recipe.toml")
    command = [
        sys.executable,
        "-m",
        "fmbench",
        "train",
        str(out),
        "--seeds",
        "3",
        "--device",
        "cpu",
        "--checkpoint-minutes",
        "0",
    ]
    for seconds in (2.0, 2.6, 3.2, 3.8, 4.4, 60.0):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                continue
        assert code == 0
        break
    expected = [pinned.sha256 for pinned in open_folder(several).recipe.pins]
    assert [pinned.sha256 for pinned in open_folder(out).recipe.pins] == expected
    assert {path.name for path in out.iterdir()} == {path.name for path in several.iterdir()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["replicates"][0].update(seed=0), "two trainings have the seed 0"),
        (lambda c: c["replicates"][0].update(seed=-1), "seed must be at least 0"),
        (lambda c: c["replicates"][0]["weights"].update(file="model.safetensors"), "two trainings have the file"),
        (lambda c: c["replicates"][0]["weights"].update(file="../x"), "cannot name a weight file"),
        (lambda c: c["replicates"][0]["weights"].update(sha256="0"), "sha256 must be 64"),
        (lambda c: c["replicates"][0].pop("weights"), "missing weights"),
        (lambda c: c["replicates"][0].update(more=1), "more"),
        (lambda c: c.pop("weights"), "the first training comes first"),
        (lambda c: c.update(replicates={"seed": 1}), "replicates must be at most 99 tables"),
        (lambda c: c.update(replicates=[c["replicates"][0]] * 100), "replicates must be at most 99 tables"),
    ],
)
def test_damaged_replicates_are_refused_in_one_line(several: Path, change: Callable, words: str) -> None:
    content = tomllib.loads((several / "recipe.toml").read_text())
    change(content)
    with pytest.raises(ValueError, match=words) as error:
        parse(content, "recipe.toml")
    assert "\n" not in str(error.value)


def test_a_changed_weight_file_of_a_replicate_is_found(several: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in several.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    data = bytearray((folder / "model-1.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model-1.safetensors").write_bytes(data)
    load(str(folder))
    with pytest.raises(ValueError, match="SHA-256 expected"):
        load(f"{folder}@1")


def test_names_of_trainings() -> None:
    assert split_training("digits/cfm@12") == ("digits/cfm", 12)
    assert split_training("hf:a/b@" + "0" * 40)[1] is None
    assert check_training_name("cfm@1.json", "a file") == "cfm@1.json"
    for name in ("cfm@", "@1", "cfm@01", "cfm@1000", "cfm@1@2", "../cfm@1"):
        with pytest.raises(ValueError, match="cannot name"):
            check_training_name(name, "a file")


def test_the_command_says_what_it_cannot_do(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in (
        ([f"{several}@1"], "say where to make it again with --out, or train the entry, with --seeds"),
        ([f"{several}@1", "--out", "elsewhere", "--seeds", "2"], "is one training of"),
        ([str(several), "--seeds", "4", "--overwrite"], "--overwrite is for one training"),
        ([str(several), "--seeds", "4", "--max-steps", "2"], "--max-steps is for one training"),
    ):
        assert main(["train", *line]) == 2
        assert words in capsys.readouterr().err
    assert main(["train", str(several), "--seeds", "3", "--json"]) == 0
    assert '"trainings": 3' in capsys.readouterr().out
