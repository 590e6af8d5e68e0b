"""A metric of somebody else's package: listed, explained, measured, ranked by, shown; one that is broken harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmbench.records import result

PLUGIN = '''
"""Mean norm of the samples."""
import numpy as np
from fmbench.statistics.intervals import mean_estimate
from fmbench.records.metric import Metric


def measure(context):
    """Mean Euclidean norm, length."""
    if context.kind != "vector":
        raise KeyError("images")
    return mean_estimate(np.linalg.norm(context.samples, axis=1))


METRIC = Metric(
    "norm", "length", "lower", "samples", ("vector", "image"), "Student t", "Mean norm of the samples.", measure, range=(0, 1e9)
)
NOT_ONE = 3
'''
PROTOCOL = """
name = "own"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 64
seeds = [0, 1]
samplers = [{ solver = "euler", steps = 2 }]
metrics = ["wasserstein2", "mean_norm"]
flow = { samples = 16, steps = 4, probes = 4, probe_steps = 4 }
latency = { batches = [1], seconds = 0.0 }
rank = { vector = "mean_norm", image = "frechet_distance", steps = 2 }
"""


@pytest.fixture
def fmbench(tmp_path: Path):
    """Runs the command line with a plug-in package that is really installed: metadata and module on the path."""
    site = tmp_path / "site"
    info = site / "norm_metric-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "norm_metric.py").write_text(PLUGIN)
    (site / "broken_metric.py").write_text("raise SystemExit('no licence')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: norm-metric\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fmbench.metrics]\nmean_norm = norm_metric:METRIC\nnot_one = norm_metric:NOT_ONE\n"
        "broken = broken_metric:METRIC\nwasserstein2 = norm_metric:METRIC\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fmbench", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return call


@pytest.mark.slow
def test_it_is_listed_and_a_broken_one_says_so(fmbench) -> None:
    listed = fmbench("list", "metrics")
    assert listed.returncode == 0, listed.stderr
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert lines["mean_norm"].endswith("Mean norm of the samples.")
    assert "Exact 2-Wasserstein" in lines["wasserstein2"], "a plug-in cannot replace a built-in metric"
    assert "cannot be imported: SystemExit: no licence" in lines["broken"]
    assert "must be a fmbench.records.metric.Metric, got int" in lines["not_one"]
    told = fmbench("info", "mean_norm")
    assert "Mean Euclidean norm, length." in told.stdout, told.stderr


@pytest.mark.slow
def test_it_is_measured_ranked_by_and_shown(fmbench, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PROTOCOL)
    ran = fmbench("run", "own.toml", "-m", "gaussian-moons/cfm", "gaussian-moons/ot-cfm", "--out", "out")
    assert ran.returncode == 0, ran.stderr
    found = result.read(tmp_path / "out/results/own/gaussian-moons/cfm.json")
    assert found.rows[0].metrics["mean_norm"].value > 0
    page = (tmp_path / "out/README.md").read_text()
    assert "norm @2" in page
    assert "Ranked by norm" in page


@pytest.mark.slow
def test_a_metric_that_raises_is_one_empty_cell(fmbench, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PROTOCOL.replace("gaussian-moons", "digits"))
    ran = fmbench("run", "own.toml", "-m", "digits/oracle", "--out", "out", "--limit", "16")
    assert ran.returncode == 0, ran.stderr
    found = result.read(tmp_path / "out/results/own/digits/oracle.json")
    assert found.rows[0].metrics["mean_norm"].value is None
    assert "KeyError: 'images'" in found.rows[0].metrics["mean_norm"].reason


@pytest.mark.slow
@pytest.mark.parametrize("name", ["broken", "not_one"])
def test_asking_for_a_broken_one_is_one_line(name: str, fmbench, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PROTOCOL.replace("mean_norm", name))
    for words in (("run", "own.toml", "-m", "gaussian-moons/cfm"), ("info", name)):
        done = fmbench(*words)
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert f"metric {name} " in done.stderr
    assert not (tmp_path / "runs" / "results").exists()
