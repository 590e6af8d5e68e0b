"""One string names a model: it is told once what it names, and what is ambiguous, damaged or not there is one line."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmbench.cli import main
from fmbench.evaluation.plan import plan
from fmbench.evaluation.run import run
from fmbench.records import protocol, recipe
from fmbench.registry import EXTRACTORS, UnknownName, file_class
from fmbench.training.run import train
from fmbench.zoo import catalogue, code, loading
from fmbench.zoo.extractors import resolve_extractor
from fmbench.zoo.resolve import Resolved, load, resolve, resolve_for

TASK = "gaussian-8gaussians"
OWN = """
from fmbench.methods.cfm import CFM
from pathlib import Path
Path("ran").touch()
class OwnFlow(CFM):
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    return "own.py:OwnFlow"


def put(zoo: Path, folder: str) -> Path:
    """The tiny entry under another name."""
    return Path(shutil.copytree(zoo / TASK / "tiny", folder))


def test_what_the_forms_name(zoo: Path, own: str) -> None:
    put(zoo, "copy")
    bundled, folder, mine = resolve(f"{TASK}/tiny"), resolve("copy"), resolve(own, TASK)
    assert [(one.name, one.task, one.code) for one in (bundled, folder, mine)] == [
        (f"{TASK}/tiny", TASK, None),
        (f"{TASK}/copy", TASK, None),
        (f"{TASK}/own-flow", TASK, own),
    ]
    assert bundled.entry.folder == zoo / TASK / "tiny"
    assert resolve(Path("copy")) == folder
    for one in (bundled, folder):
        assert one.entry.recipe == bundled.entry.recipe
        assert torch.equal(one.load().sample(4, steps=1), load(one.spec).sample(4, steps=1))
    with pytest.raises(FileNotFoundError, match=f"has no entry here; make one with `fmbench train --method {own}"):
        _ = mine.entry
    with pytest.raises(ValueError, match=f"is for task {TASK}, not digits"):
        resolve("copy", "digits")
    with pytest.raises(UnknownName, match=r"own\.py:OwnFlow: unknown task 'digts'; nearest: digits"):
        resolve(own, "digts")


def test_code_runs_when_it_is_loaded_and_not_before(own: str, tiny_recipe: Callable) -> None:
    resolve(own, TASK)
    resolve_for(own, ["digits", TASK])
    assert not Path("ran").exists()
    train(tiny_recipe(TASK, own), Path("entries") / TASK / "own-flow")
    Path("ran").unlink()
    code._EXECUTED.clear()  # as in another process
    found = resolve(own)
    assert (found.name, found.code, found.entry.folder) == (
        f"{TASK}/own-flow",
        own,
        Path("entries") / TASK / "own-flow",
    )
    assert not Path("ran").exists()
    assert found.load().sample(2, steps=1).shape == (2, 2)


def test_code_stands_for_the_tasks_it_was_trained_for_or_for_all(own: str, tiny_recipe: Callable) -> None:
    tasks = ["digits", TASK]
    assert [one.task for one in resolve_for(own, tasks)] == tasks
    train(tiny_recipe(TASK, own), Path("entries") / TASK / "own-flow")
    (found,) = resolve_for(own, tasks)
    assert found.task == TASK and found.found is not None


def test_what_names_several_shows_the_choices(zoo: Path, own: str, tiny_recipe: Callable) -> None:
    put(zoo, f"{TASK}/tiny")
    with pytest.raises(ValueError, match="is both") as caught:
        resolve(f"{TASK}/tiny")
    assert f"./{TASK}/tiny" in str(caught.value) and str(zoo / TASK / "tiny") in str(caught.value)
    assert resolve(f"./{TASK}/tiny").entry.folder == Path(TASK) / "tiny"
    for place in (f"{TASK}/own-flow", "digits/own-flow", "digits/own-flow-cond"):
        train(tiny_recipe(place.split("/")[0], own, **{"train.steps": 1}), Path("entries") / place)
    with pytest.raises(ValueError, match="which task") as caught:
        resolve(own)
    assert f"entries/{TASK}/own-flow" in str(caught.value) and "entries/digits/own-flow" in str(caught.value)
    with pytest.raises(ValueError, match="which entry") as caught:
        resolve(own, "digits")
    assert "entries/digits/own-flow, entries/digits/own-flow-cond" in str(caught.value)
    assert resolve(own, TASK).task == TASK


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("gone.py:Mine", FileNotFoundError, r"no file gone\.py"),
        ("own.py:*", ValueError, "is no name of a class"),
        ("own.py:A:B", UnknownName, "unknown entry"),
        (f"{TASK}/tinny", UnknownName, f"nearest: {TASK}/tiny"),
        (f"{TASK}/../{TASK}/tiny", UnknownName, "unknown entry"),
        (".", FileNotFoundError, r"holds no recipe\.toml"),
        (" ", ValueError, "names no entry"),
        (None, ValueError, "named by a string"),
    ],
)
def test_what_names_nothing_is_one_line(spec: str, error: type, words: str, zoo: Path, own: str) -> None:
    with pytest.raises(error, match=words) as caught:
        resolve(spec, TASK)
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_told_and_fails_when_it_is_loaded(zoo: Path, own: str) -> None:
    folder = put(zoo, "damaged")
    (folder / "recipe.toml").write_text("task = ")
    found = resolve("damaged")
    assert isinstance(found.damage, ValueError) and found.task is None
    for use in (found.load, lambda: found.entry):
        with pytest.raises(ValueError, match="damaged"):
            use()


PROTOCOL = f"""
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons", "{TASK}"]
samples = 64
seeds = [0]
samplers = [{{ solver = "euler", steps = 2 }}]
metrics = ["sliced_wasserstein2"]
flow = {{ samples = 8, steps = 4, probes = 8, probe_steps = 4 }}
latency = {{ batches = [1], seconds = 0.0 }}
rank = {{ vector = "sliced_wasserstein2", steps = 2 }}
"""


def test_a_run_reads_every_string_once_and_goes_on_after_a_damaged_one(
    zoo: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.toml").write_text(PROTOCOL)
    (put(zoo, "damaged") / "recipe.toml").write_text("x")
    put(zoo, "copy")
    spec = protocol.read("tiny.toml")
    names = ["damaged", f"{TASK}/tiny", own, "copy"]
    planned = plan(spec, names)
    assert [one.name for one in planned] == [
        "gaussian-moons/data",
        "damaged",
        own,
        f"{TASK}/data",
        f"{TASK}/tiny",
        own,
        "copy",
    ]
    monkeypatch.setattr(catalogue, "open_folder", lambda *_: pytest.fail("a recipe is read again"))
    monkeypatch.setattr("fmbench.zoo.resolve.open_folder", lambda *_: pytest.fail("a recipe is read again"))
    models = [one.model for one in planned if one.model is not None]
    assert all(isinstance(model, Resolved) for model in models)
    assert [(one.name, one.model) for one in plan(spec, models)] == [(one.name, one.model) for one in planned]
    outcome = run("tiny.toml", models, Path("out"))
    assert [line.split(": ")[0] for line in outcome.errors] == ["damaged", own, own]
    assert [result.entry for result in outcome.results] == ["data", "data", "tiny", "copy"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "tiny.toml", "--limit", "8", "--out", "out", "-m"],
        ["sample", "-n", "2", "--steps", "1", "-o", "x.npy"],
        ["latency", "tiny.toml", "--out", "out", "-m"],
        ["info"],
        ["train", "--out", "student", "--method", "reflow", "--task", TASK, "--set", "method.pairs=16", "--set", "train.steps=1",
         "--set", "net.width=16", "--set", "net.depth=2", "--set", "train.batch_size=4", "--teacher"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_command_reads_a_recipe_once(words: list[str], zoo: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tiny.toml").write_text(PROTOCOL)
    places, read_toml = [], recipe.read_toml
    monkeypatch.setattr(
        recipe, "read_toml", lambda path, what: (places.append(path.parent.name), read_toml(path, what))[1]
    )
    assert main([*words, f"{TASK}/tiny"]) == 0
    assert places.count("tiny") == 1


def test_extractors_are_told_before_they_are_loaded(trained_zoo: Path) -> None:
    known = resolve_extractor("inception-tf")
    assert (known.pinned, known.model) == (EXTRACTORS.table["inception-tf"], None)
    of_zoo = resolve_extractor("digits/digits-cnn")
    assert of_zoo.model is not None
    assert of_zoo.pinned == of_zoo.model.entry.recipe.weights.sha256 == of_zoo.load().sha256
    folder = str(of_zoo.model.entry.folder)
    assert resolve_extractor(folder).pinned == of_zoo.pinned
    with pytest.raises(ValueError, match="is no classifier"):
        resolve_extractor(str(trained_zoo / TASK / "tiny")).load()
    for name in ("inception", "digits/digits-cn"):
        with pytest.raises(UnknownName, match="nearest"):
            resolve_extractor(name)


def test_telling_what_a_string_names_imports_nothing_heavy() -> None:
    words = (
        "import sys; from fmbench.zoo.resolve import resolve; assert resolve('digits/ot-cfm').entry.recipe\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_strings_are_taken_apart_in_one_place() -> None:
    """Whether a string names code is asked of the registry, and entries are looked up by the resolver alone."""
    package = Path(catalogue.__file__).parents[1]
    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            taken = isinstance(node, (ast.Compare, ast.Call)) and '".py:"' in ast.unparse(node).replace("'", '"')
            assert not taken, f"{place}, line {node.lineno}: ask file_class of fmbench.registry"
            names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            names |= (
                {node.attr} if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "catalogue" else set()
            )
            looked_up = place not in ("zoo/catalogue.py", "zoo/resolve.py") and names & {
                "find",
                "locate",
                "trained_here",
            }
            assert not looked_up, f"{place} looks an entry up itself; call resolve of fmbench.zoo.resolve"
    assert file_class("a/b.py:C") == ("a/b.py", "C") and file_class("hf:org/repo") is None


def test_old_names_are_handed_on() -> None:
    from fmbench.zoo import resolve as module

    with pytest.warns(DeprecationWarning, match=r"fmbench\.zoo\.resolve\.load_entry is now fmbench\.zoo\.loading"):
        assert module.load_entry is loading.load_entry
