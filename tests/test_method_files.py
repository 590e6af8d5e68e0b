"""Method files: imported as Python would, each with its own neighbours, and one line with the place when they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fmbench.cli import main
from fmbench.zoo import code
from fmbench.zoo.code import code_hash, method_class
from fmbench.zoo.resolve import load

TASK = "gaussian-moons"
MINE = """
import fields
from fmbench.methods import VelocityMethod

class Mine(VelocityMethod):
    @classmethod
    def build_net(cls, task, net, conditional):
        return fields.Field()

    def velocity(self, x, t, labels=None, guidance=1.0):
        return self.net(x, t)

    def loss(self, batch, generator):
        raise ValueError("nothing to train")
"""
FIELD = """
from torch import nn
import inner.factor

class Field(nn.Module):
    def forward(self, x, t):
        return inner.factor.FACTOR * x
"""


def folder_of(path: Path, factor: float) -> str:
    (path / "inner").mkdir(parents=True)
    (path / "mine.py").write_text(MINE)
    (path / "fields.py").write_text(FIELD)
    (path / "inner" / "__init__.py").write_text("")
    (path / "inner" / "factor.py").write_text(f"FACTOR = {factor}\n")
    return f"{path / 'mine.py'}:Mine"


def test_two_folders_may_use_the_same_names(tmp_path: Path) -> None:
    """v = c x, one Euler step: x (1 + c). The second folder's constant is not the first's."""
    path = list(sys.path)
    specs = {c: folder_of(tmp_path / name, c) for name, c in (("a", -1.0), ("b", 0.5))}
    for factor, spec in (*specs.items(), *specs.items()):
        model = load(spec, task=TASK)
        assert torch.allclose(model.sample(8, steps=1), (1 + factor) * model.noise(0, 8, 0))
    assert sys.path == path
    assert not {"fields", "inner", "inner.factor"} & set(sys.modules)
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_module_of_the_caller_with_the_same_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "fields.py").write_text("WHERE = 'elsewhere'\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    import fields  # type: ignore[import-not-found]

    try:
        assert load(folder_of(tmp_path / "own", 0.5), task=TASK).sample(2, steps=1).shape == (2, 2)
        assert sys.modules["fields"] is fields and fields.WHERE == "elsewhere"
    finally:
        del sys.modules["fields"]


def test_the_neighbours_are_part_of_what_identifies_the_code(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, 0.5)
    first = load(spec, task=TASK)
    assert load(spec, task=TASK).identity == first.identity
    (tmp_path / "beside.py").write_text("not imported\n")
    assert load(spec, task=TASK).identity == first.identity
    (tmp_path / "inner" / "factor.py").write_text("FACTOR = 1.5\n")
    second = load(spec, task=TASK)
    assert second.identity["code_sha256"] != first.identity["code_sha256"]
    assert torch.allclose(second.sample(8, steps=1), 2.5 * second.noise(0, 8, 0))


ALONE = "from fmbench.methods.cfm import CFM\nclass Own(CFM):\n    factor = 2\n"


def test_comments_identify_nothing_and_code_does(tmp_path: Path) -> None:
    file = tmp_path / "alone.py"

    def identity(text: str) -> str | None:
        file.write_text(text)
        return code_hash(method_class(f"{file}:Own"))

    first = identity(ALONE)
    assert first is not None
    assert identity('"""What it is."""\n\n# A remark.\n' + ALONE.replace("factor = 2", "factor = 2  # twice")) == first
    assert identity(ALONE.replace("2", "3")) not in (first, None)


def test_the_users_modules_elsewhere_are_part_of_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "lib")
    (tmp_path / "alone.py").write_text("from somewhere_of_mine import factor\n" + ALONE.replace("= 2", "= factor()"))
    hashes = []
    for number in ("2", "2  # twice", "3"):
        (tmp_path / "lib" / "somewhere_of_mine.py").write_text(f"def factor():\n    return {number}\n")
        sys.modules.pop("somewhere_of_mine", None)
        code._EXECUTED.clear()  # as in another process
        hashes.append(code_hash(method_class(f"{tmp_path / 'alone.py'}:Own")))
    sys.modules.pop("somewhere_of_mine", None)
    assert hashes[0] == hashes[1] != hashes[2]
    assert None not in hashes


def test_methods_of_the_package_are_identified_by_declared_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmbench.methods import cfm, ot_cfm
    from fmbench.records import versions

    (tmp_path / "alone.py").write_text(ALONE)
    assert method_class(f"{tmp_path / 'alone.py'}:CFM") is cfm.CFM
    mine = method_class(f"{tmp_path / 'alone.py'}:Own")
    before = [code_hash(kind) for kind in (cfm.CFM, ot_cfm.OTCFM, mine)]
    assert len({*before}) == 3
    # Not by the bytes of their files.
    monkeypatch.setattr("inspect.getsource", lambda *_: 1 / 0)
    monkeypatch.setattr("inspect.getfile", lambda *_: 1 / 0)
    assert [code_hash(kind) for kind in (cfm.CFM, ot_cfm.OTCFM, mine)] == before
    # A raised version is another method, and so is everything derived from it.
    monkeypatch.setitem(versions.METHOD_VERSIONS, "cfm", 2)
    assert all(code_hash(kind) != old for kind, old in zip((cfm.CFM, mine), (before[0], before[2]), strict=True))
    monkeypatch.setitem(versions.NET_VERSIONS, "mlp", 2)
    assert code_hash(ot_cfm.OTCFM, "unet") != code_hash(ot_cfm.OTCFM, "mlp")


def test_imports_inside_the_functions_that_build_are_found(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, 0.5)
    late = MINE.replace("import fields\n", "").replace(
        "        return fields", "        import fields\n        return fields"
    )
    (tmp_path / "mine.py").write_text(late)
    first = load(spec, task=TASK)
    assert torch.allclose(first.sample(8, steps=1), 1.5 * first.noise(0, 8, 0))
    (tmp_path / "inner" / "factor.py").write_text("FACTOR = 1.5\n")
    assert load(spec, task=TASK).identity["code_sha256"] != first.identity["code_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("relative", [True, False])
def test_the_command_finds_neighbours_from_any_folder(relative: bool, tmp_path: Path) -> None:
    spec = folder_of(tmp_path / "own", 0.5)
    given, place = ("own/mine.py:Mine", tmp_path) if relative else (spec, Path("/"))
    command = [sys.executable, "-m", "fmbench", "check", given, "--task", TASK]
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__code__.co_filename).parents[2])}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\nraise KeyError('gone')\n", "bad.py, line 2: KeyError: 'gone'"),
        ("import sys\nsys.exit(3)\n", "bad.py, line 2: SystemExit: 3"),
        ("class A:\n  x = (\n", "bad.py, line 2: SyntaxError"),
        ("import not_there_at_all\n", "bad.py, line 1: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("import worse\n", "worse.py, line 1: ZeroDivisionError"),
        ("def f():\n    f()\nf()\n", "RecursionError"),
        ("x = '\0'\n", "bad.py"),
        ("raise MemoryError\n", "bad.py, line 1: MemoryError"),
        ("raise StopIteration('a\\nb')\n", "bad.py, line 1: StopIteration: a"),
    ],
    ids=range(9),
)
def test_errors_while_importing_are_one_line_with_the_place(
    code: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.py").write_text(code)
    (tmp_path / "worse.py").write_text("1 / 0\n")
    for command in (["check"], ["train", "--task", TASK, "--out", str(tmp_path / "out"), "--method"]):
        assert main([*command, f"{tmp_path / 'bad.py'}:Mine"]) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
        assert str(tmp_path) in said
    assert "worse" not in sys.modules


def test_a_file_changes_nothing_in_the_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, random, sys, torch\ntorch.set_default_dtype(torch.float64)\ntorch.manual_seed(0)\nrandom.seed(0)\n"
        "os.chdir('/')\nsys.path.append('x')\n"
        + MINE.replace("import fields", "from torch import nn as fields").replace("Field()", "Identity()")
    )
    before = (torch.get_rng_state(), os.getcwd(), list(sys.path))
    method_class(f"{tmp_path / 'mine.py'}:Mine")
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (os.getcwd(), sys.path) == before[1:]


PARAMETERS = """
from __future__ import annotations
from typing import TYPE_CHECKING, Literal, Optional
from fmbench.methods.cfm import CFM
if TYPE_CHECKING:
    from torch import nn

class Own(CFM):
    def __init__(self, net: nn.Module, kind: Literal["a", 1] = "a", many: tuple[tuple[int, ...], ...] = (),
                 pair: tuple[int, str] = (1, "x"), maybe: Optional[float] = None, listed: list[int] | None = None, **kwargs):
        super().__init__(net, **kwargs)

class Unknown(CFM):
    def __init__(self, net, width: Widht = 3, *args):
        super().__init__(net)

class Needs(CFM):
    def __init__(self, net, rate: float):
        super().__init__(net)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("Own", ["kind='a'", "kind=1", "many=[[1],[2,3]]", "pair=[1,'y']", "maybe=2", "listed=[1]", "sigma=0.5"], None),
        ("Own", ["kind='b'"], "kind must be typing.Literal['a', 1], got 'b' (str)"),
        ("Own", ["kind=true"], "kind must be typing.Literal['a', 1], got True (bool)"),
        ("Own", ["many=[1]"], "many must be tuple[tuple[int, ...], ...]"),
        ("Own", ["pair=[1,'y',2]"], "pair must be tuple[int, str]"),
        ("Own", ["maybe='x'"], "maybe must be"),
        ("Own", ["listed=['x']"], "listed must be"),
        ("Own", ["kwargs=3"], "unknown key 'kwargs'"),
        ("Own", ["sgma=3"], "unknown key 'sgma'; nearest: sigma"),
        ("Unknown", [], "the hint 'Widht' of width in Unknown cannot be resolved: NameError: name 'Widht' is not defined"),
        ("Needs", [], "[method]: missing rate"),
        ("Needs", ["rate=1.0", "args=1"], "unknown key 'args'"),
    ],
)  # fmt: skip
def test_parameters_are_checked_against_hints_of_every_shape(
    name: str, settings: list[str], words: str | None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine.py").write_text(PARAMETERS)
    for given in [[s] for s in settings] if words is None else [settings]:
        options = [w for s in given for w in ("--set", f"method.{s}")]
        out = str(tmp_path / f"out{len(os.listdir(tmp_path))}")
        command = [
            "train",
            "--method",
            f"{tmp_path / 'mine.py'}:{name}",
            "--task",
            TASK,
            "--max-steps",
            "1",
            "--out",
            out,
        ]
        code, said = main([*command, *options]), capsys.readouterr().err
        if words is None:
            assert code == 0, said
        else:
            assert code == 1 and words in said and said.count("\n") == 1
