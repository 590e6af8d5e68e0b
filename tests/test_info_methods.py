"""fmbench info of a method: paper, objective, defaults, capabilities, entries, and the best of its committed results."""

from __future__ import annotations

import json
import re

import pytest

from fmbench.cli import main
from fmbench.records.result import read
from fmbench.registry import METHODS
from fmbench.storage.bundled import data_folder


def facts(name: str, capsys: pytest.CaptureFixture) -> dict:
    assert main(["info", name, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "name", ["meanflow", "imf", "split-meanflow", "shortcut", "consistency", "consistency-distill"]
)
def test_a_few_step_method_says_what_it_is(name: str, capsys: pytest.CaptureFixture) -> None:
    found = facts(name, capsys)
    assert found["reference"].startswith("arXiv:")
    assert "sg" in found["objective"]
    assert "=" in found["defaults"]
    assert "flow_map" in found["capabilities"]
    assert ("velocity" in found["capabilities"]) == (not name.startswith("consistency"))
    assert found["needs a teacher"] == ("yes" if name == "consistency-distill" else "no")
    assert found["needs a Gaussian source"] == ("yes" if name.startswith("consistency") else "no")
    assert main(["info", name]) == 0
    assert f"objective {METHODS.resolve(name).objective}" in re.sub(r"  +", " ", capsys.readouterr().out)


@pytest.mark.slow
def test_the_best_results_are_the_best_of_the_committed_ones(capsys: pytest.CaptureFixture) -> None:
    found = facts("reflow", capsys)
    assert {"digits/rf-2", "digits/rf-3", "gaussian-moons/rf-2"} <= {*found["entries"].split(", ")}
    folder = data_folder("leaderboard") / "results" / "digits" / "digits"
    for label in ("euler-1", "euler-32"):
        values = {
            f"digits/{path.stem}": row.metrics["frechet_distance"].value
            for path in (*folder.glob("rf-2*.json"), *folder.glob("rf-3*.json"))
            for row in read(path).rows
            if row.sampler.label == label
        }
        name = min(values, key=values.__getitem__)
        assert f"FD {values[name]:.4g} at {label} ({name})" in found["best on digits/digits"]
