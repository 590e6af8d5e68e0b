"""The methods that the README shows in full: they run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fmbench
from fmbench.cli import main
from fmbench.noise import generator
from fmbench.transport.exact import wasserstein2

README = (Path(__file__).parent.parent / "README.md").read_text()
TASK = "gaussian-8gaussians"


def shown(file: str, folder: Path) -> Path:
    """The listing of a file in the README, written to a folder."""
    (code,) = re.findall(rf"```python\n(# {re.escape(file)}\n.*?)```", README, re.DOTALL)
    path = folder / file
    path.write_text(code)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("file", "kind"), [("my_method.py", "TrigFlow"), ("my_meanflow.py", "MyMeanFlow")])
def test_a_method_of_the_readme_is_checked_and_trained(file: str, kind: str, tmp_path: Path, capsys) -> None:
    path = shown(file, tmp_path)
    assert len(path.read_text().splitlines()) < 40
    spec = f"{path}:{kind}"
    assert main(["check", spec, "--task", TASK]) == 0
    assert "FAILED" not in capsys.readouterr().out
    assert main(["train", "--method", spec, "--task", TASK, "--out", str(tmp_path / "out"), "--max-steps", "3"]) == 0


@pytest.mark.slow
def test_the_map_of_the_readme_samples_in_one_jump_and_in_a_few(tmp_path: Path, monkeypatch) -> None:
    """After 1,500 steps one jump is nearer to the data than one Euler step of a velocity field is (above 4.5)."""
    monkeypatch.chdir(tmp_path)
    spec = f"{shown('my_meanflow.py', tmp_path)}:MyMeanFlow"
    assert main(["train", "--method", spec, "--task", TASK, "--set", "train.steps=1500"]) == 0
    model = fmbench.load(spec, task=TASK)
    real = model.task.target.sample(500, generator(1)).double().numpy()
    for steps in (1, 2, 4, 8):
        points = model.sample(500, steps=steps).double().numpy()
        assert wasserstein2(points, real) < 2.5
