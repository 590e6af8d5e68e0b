"""Training and what surrounds it: whose folder it is, whose checkpoint, what closed means, options that no training can have."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fmbench.cli import main
from fmbench.records.recipe import Recipe, closed, override, read
from fmbench.registry import TASKS
from fmbench.training.claim import WORKSPACE
from fmbench.training.run import CHECKPOINT, train
from fmbench.zoo import catalogue
from fmbench.zoo.building import build, require_closed_net
from fmbench.zoo.code import method_class
from fmbench.zoo.resolve import load

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-8gaussians"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_line(capsys: pytest.CaptureFixture) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    return said


def test_a_finished_entry_is_replaced_only_when_asked(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    copy = Path(shutil.copytree(zoo, tmp_path / "zoo"))
    monkeypatch.setattr(catalogue, "data_folder", lambda name: copy)
    before = content(copy)
    short = ["--set", "train.steps=2", "--set", "train.seed=9"]
    for words in ([f"{TASK}/tiny"], ["--method", "cfm", "--task", TASK, "--out", str(copy / TASK / "tiny")]):
        assert main(["train", *words, *short]) == 1
        assert "holds a finished entry; give another --out, or --overwrite to replace it" in one_line(capsys)
        assert content(copy) == before
    assert main(["train", f"{TASK}/tiny", *short, "--max-steps", "1", "--overwrite"]) == 0
    assert {k: v for k, v in content(copy).items() if CHECKPOINT not in k} == before
    # Told once, it goes on without being told again.
    assert main(["train", f"{TASK}/tiny", *short]) == 0
    assert read(copy / TASK / "tiny" / "recipe.toml").train.seed == 9


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    recipe, other = tiny_recipe(TASK, "cfm"), tiny_recipe(TASK, "fm")
    cases = {
        "project": {"README.md": "mine"},
        "weights": {"model.safetensors": "x"},
        "other": {"recipe.toml": other.to_toml()},
        "broken": {"recipe.toml": "task = ["},
        "unpinned": {"recipe.toml": recipe.to_toml(), "model.safetensors": "x"},
    }
    for name, files in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        before = content(folder)
        with pytest.raises(ValueError, match=f"{folder} holds .*; give another --out, or --overwrite to replace it"):
            train(recipe, folder, max_steps=1)
        assert content(folder) == before
    own = tmp_path / "own"
    own.mkdir()
    (own / "recipe.toml").write_text(recipe.to_toml())
    train(recipe, own, max_steps=1)
    train(recipe, own)
    assert load(str(own)).sample(2).isfinite().all()


@pytest.mark.parametrize("name", ["data", "Oracle", "con", "a\nb", "x" * 101, "-x"])
def test_folders_whose_names_no_entry_has_are_refused(
    name: str, tmp_path: Path, tiny_recipe: MakeRecipe, zoo: Path
) -> None:
    with pytest.raises(ValueError, match=r"tables call|cannot name the folder") as caught:
        train(tiny_recipe(TASK, "cfm"), tmp_path / name, max_steps=1)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "loaded" / name
    shutil.copytree(zoo / TASK / "tiny", folder)
    with pytest.raises(ValueError, match=r"tables call|cannot name the folder"):
        load(str(folder))


@pytest.mark.parametrize("target", ["model.safetensors", "recipe.toml", "README.md", CHECKPOINT, ".checkpoint.tmp"])
@pytest.mark.parametrize("kind", ["folder", "fifo", "loop"])
def test_what_is_no_file_in_the_place_of_one_is_named_before_any_work(
    target: str, kind: str, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    path = tmp_path / "entry" / target
    path.parent.mkdir()
    {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(ValueError, match=f"{path} is no regular file"):
        train(tiny_recipe(TASK, "cfm"), path.parent, overwrite=True)


def test_links_in_the_folder_lead_nowhere(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    out, outside = tmp_path / "entry", tmp_path / "outside"
    out.mkdir()
    outside.write_text("mine")
    for name in ("model.safetensors", "recipe.toml", ".checkpoint.tmp"):
        (out / name).symlink_to(outside)
    train(tiny_recipe(TASK, "cfm"), out, overwrite=True, checkpoint_seconds=0.0)
    assert outside.read_text() == "mine"
    (out / WORKSPACE).symlink_to(tmp_path)
    with pytest.raises(ValueError, match="workspace is no folder, so it is in the way"):
        train(tiny_recipe(TASK, "cfm"), out, overwrite=True)


WIDE = """
from fmbench.methods.cfm import CFM
from fmbench.nets.mlp import MLP
from torch import nn

class Wide(CFM):
    @classmethod
    def build_net(cls, task, net, conditional):
        return MLP(task.shape, width=120)

class Beside(CFM):
    def __init__(self, net, sigma: float = 0.0):
        super().__init__(net, sigma)
        self.more = nn.Linear(100, 100)

class Other(CFM):
    @classmethod
    def build_net(cls, task, net, conditional):
        return type("Mine", (MLP,), {})(task.shape)

class Close(CFM):
    @classmethod
    def build_net(cls, task, net, conditional):
        return MLP(task.shape, width=65)
"""


@pytest.mark.parametrize(
    ("name", "found"),
    [("Wide", "MLP and 29,762"), ("Beside", "MLP and 18,806"), ("Other", "Mine and 8,706"), ("Close", None)],
)
def test_closed_means_the_network_that_was_built(
    name: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Counts by hand: width w on two dimensions has 3w + w + 2 (w^2 + w) + 2w + 2 parameters."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(WIDE)
    words = ["train", "--method", f"own.py:{name}", "--task", TASK, "--max-steps", "1"]
    code = main(words)
    if found is None:
        assert code == 0
        return
    assert code == 1
    expected = f'built with {found} parameters, not MLP and 8,706 as {TASK} has it; set division = "open"'
    assert expected in one_line(capsys)
    assert main([*words[:-2], "--set", "division=open", "--set", "train.steps=2"]) == 0
    entry = Path("entries") / TASK / name.lower()
    # An entry that lies is refused wherever it is loaded, so by every benchmark.
    (entry / "recipe.toml").write_text((entry / "recipe.toml").read_text().replace('"open"', '"closed"'))
    capsys.readouterr()
    with pytest.raises(ValueError, match=expected.replace("(", r"\(")):
        load(f"own.py:{name}")
    assert main(["run", "quick", "-m", f"own.py:{name}", "--limit", "64"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(catalogue.data_folder("zoo").glob("*/*/recipe.toml")), ids=lambda p: f"{p.parts[-3]}-{p.parts[-2]}"
)
def test_every_bundled_entry_was_built_as_its_division_says(path: Path) -> None:
    recipe = read(path)
    task = TASKS.resolve(recipe.task)()
    require_closed_net(recipe, build(recipe, task, method_class(recipe.method["name"]), "r"), task, "r")


def test_a_teacher_is_used_or_refused(zoo: Path, tmp_path: Path) -> None:
    recipe = closed(TASKS.resolve(TASK)(), "cfm", teacher=f"{TASK}/tiny")
    with pytest.raises(ValueError, match=r'cfm needs no teacher, .*; leave teacher out, or set division = "open"'):
        train(recipe, tmp_path / "x")


FAILING = """
from fmbench.methods.cfm import CFM

class Loss(CFM):
    def loss(self, batch, generator):
        return {}["gone"]

class Exits(CFM):
    def batches(self, task, teacher, batch_size):
        raise SystemExit(4)

class Init(CFM):
    def __init__(self, net):
        raise MemoryError

class Build(CFM):
    @classmethod
    def build_net(cls, task, net, conditional):
        return 3

class Figures(CFM):
    def diagnostics(self, task):
        return {"accuracy": float("nan")}
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Loss", "Loss at step 0: KeyError: 'gone'"),
        ("Exits", "own.py:Exits: SystemExit: 4"),
        ("Init", "recipe.toml: MemoryError"),
        ("Build", "Build"),
        ("Figures", "accuracy must be finite, got nan"),
    ],
)
def test_whatever_a_method_raises_is_one_line(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "own.py").write_text(FAILING)
    command = ["train", "--method", f"{tmp_path / 'own.py'}:{name}", "--task", TASK, "--out", str(tmp_path / "out")]
    assert main([*command, "--set", "train.steps=1"]) == 1
    assert words in next(x for x in capsys.readouterr().err.splitlines() if x.startswith("fmbench:"))
    assert not (tmp_path / "out" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--set", "train.steps=2", "--set", "train.steps=3"], 2, "train.steps is set twice"),
        (["--set", "train.precision=float32", "--precision", "bf16"], 2, "train.precision is set twice"),
        (["--set", "conditional=false", "--conditional"], 2, "conditional is set twice"),
        (["--set", "teacher=a/b", "--teacher", "c/d"], 2, "teacher is set twice"),
        (["--teacher", ""], 1, "teacher must be 1 to 300 characters"),
        (["--set", "teacher="], 1, "teacher must be 1 to 300 characters"),
        (["--set", "made.seconds=1"], 1, "'made.seconds' is written by the training itself"),
        (["--set", "weights.file=x"], 1, "'weights.file' is written by the training itself"),
        (["--set", "nets.width=3"], 1, "unknown recipe table 'nets'"),
        (["--set", "method.sigma=nan"], 1, "sigma must be finite, got nan"),
        (["--set", "method.sigma=inf"], 1, "sigma must be finite, got inf"),
        (["--set", "train.steps=1000000000000"], 1, "steps must be at least 1 and below 1000000001"),
        (["--set", "train.batch_size=100000000"], 1, "batch_size must be at least 1 and below"),
        (["--set", "train.seed=-1"], 1, "seed must be at least 0, got -1"),
        (["--set", "train.seed=99999999999999999999"], 1, "seed must be at least 0 and below"),
        (["--set", "train.ema=nan"], 1, "ema must be at least 0"),
        (["--set", "train.steps=true"], 1, "steps must be int, got True (bool)"),
        (["--set", "net.width=" + "9" * 5000], 1, "width must be int, got '999"),
        (["--set", "net.width=99999999999999999999"], 1, "width must fit into 64 bits"),
        (["--set", "method.name="], 1, "[method]: name must be 1 to 300 characters"),
        (["--set", "license=a\nb"], 1, "license must be 1 to 300 characters"),
        (["--set", "train.steps=3\nx=1"], 1, "steps must be int"),
        (["--conditional"], 1, "has no class labels"),
        (["--checkpoint-minutes", "-1"], 2, "must be a number of at least 0"),
        (["--checkpoint-minutes", "nan"], 2, "must be a number of at least 0"),
        (["--processes", "0"], 2, "must be a whole number of at least 1"),
        (["--threads", "5000"], 2, "--threads must be at most 1024, got 5000"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_options_that_no_training_can_have(
    options: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["train", "--method", "cfm", "--task", TASK, "--out", str(tmp_path / "out"), "--max-steps", "1", *options]
    try:
        found = main(command)
    except SystemExit as error:
        found = error.code
    said = capsys.readouterr().err
    assert (found, words in said, "Traceback" in said) == (code, True, False), said
    assert not (tmp_path / "out" / CHECKPOINT).exists()


@pytest.mark.parametrize(
    "options",
    [{"max_steps": -1}, {"max_steps": True}, {"processes": 0}, {"accumulate": 0}, {"checkpoint_seconds": float("nan")},
     {"checkpoint_seconds": -1}],
    ids=str,
)  # fmt: skip
def test_arguments_that_no_training_can_have(options: dict, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a"):
        train(tiny_recipe(TASK, "cfm"), tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_a_folder_does_not_run_code_that_the_command_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "import os\nos.mkdir('ran')\nfrom fmbench.methods.cfm import CFM\nclass Own(CFM):\n    pass\n"
    )
    recipe = override(closed(TASKS.resolve(TASK)(), "own.py:Own"), {"train.steps": 2})
    Path("entry").mkdir()
    recipe.save(Path("entry/recipe.toml"))
    assert main(["train", "entry"]) == 2
    assert "entry runs code from own.py:Own; say so with --method own.py:Own" in one_line(capsys)
    assert not Path("ran").exists()
    assert main(["train", "entry", "--method", "own.py:Own"]) == 0
    assert main(["card", "entry"]) == 1
    assert main(["card", "entry", "-m", "own.py:Own"]) == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [("", "names no entry"), ("a\0b", "names no entry"), (3, "named by a string"), ("x" * 5000, "x"), ("loop", "loop")],
)
def test_odd_strings_name_no_model(spec: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text("")
    Path("loop").symlink_to("loop")
    with pytest.raises((ValueError, OSError), match=words) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
