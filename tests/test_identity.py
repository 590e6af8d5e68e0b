"""Which code was run: comments change nothing, everything else does, and what cannot be told is never the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fmbench.execution.identity import code_identity, tree_hash

SCALE = 2.0


def field(m, x, t):
    return SCALE * m(x, t)


def made(factor):
    return lambda m, x, t: factor * m(x, t)


def test_two_calls_of_one_module_differ_where_their_code_does() -> None:
    forward, backward = (lambda m, x, t: m(x, t)), (lambda m, x, t: -m(x, 1 - t))
    assert code_identity(forward) != code_identity(backward)
    assert code_identity(forward) == code_identity(lambda m, x, t: m(x, t))
    assert code_identity(made(1.0)) == code_identity(made(1.0)) != code_identity(made(2.0))


def test_globals_and_defaults_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_identity(field)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert code_identity(field) not in (before, None)
    assert code_identity(lambda x, a=1: x) != code_identity(lambda x, a=2: x)


def test_instances_count_with_their_state() -> None:
    class Call:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, m, x, t):
            return self.factor * m(x, t)

    assert code_identity(Call(1)) == code_identity(Call(1)) != code_identity(Call(2))
    random = torch.Generator().manual_seed(0)
    weights = torch.randn((2, 2), generator=random)
    nets = [nn.Linear(2, 2) for _ in range(3)]
    for net, scale in zip(nets, (1, 1, 2), strict=True):
        net.load_state_dict({"weight": scale * weights, "bias": torch.zeros(2)})
    hashes = [code_identity(made(net)) for net in nets]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("make", [lambda: open("/dev/null"), lambda: (i for i in ()), lambda: sys._getframe()])  # noqa: SIM115
def test_what_cannot_be_told_is_none(make) -> None:
    thing = make()
    try:
        assert code_identity(lambda m, x, t: (thing, m(x, t))) is None
    finally:
        getattr(thing, "close", lambda: None)()


def test_comments_layout_and_docstrings_are_not_code() -> None:
    plain = "def f(x):\n    return x + 1\n"
    said = 'def f(x):\n    """Says."""\n    return x + 1\n'
    assert tree_hash(said) == tree_hash(said.replace("Says", "Says more")) == tree_hash(plain)
    assert tree_hash(plain) == tree_hash("# head\ndef f( x ):\n    return x+1  # tail\n")
    assert tree_hash(plain) != tree_hash(plain.replace("1", "2"))


def test_the_modules_beside_a_file_count(tmp_path: Path) -> None:
    """Run in processes of their own, as a second run would be."""
    (tmp_path / "main.py").write_text("import helper\ndef call(m, x, t):\n    return helper.scale(m(x, t))\n")
    ask = "import main; from fmbench.execution.identity import code_identity; print(code_identity(main.call))"

    def identity(helper: str) -> str:
        (tmp_path / "helper.py").write_text(helper)
        command = [sys.executable, "-B", "-c", ask]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    first = identity("def scale(x):\n    return 2 * x\n")
    assert len(first) == 64
    assert identity("# a remark\ndef scale(x):\n    return 2 * x  # twice\n") == first
    assert identity("def scale(x):\n    return 3 * x\n") != first
