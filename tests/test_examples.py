"""Flows that are no single velocity field: checked, trained, run by the ordinary commands, and measured as what they are."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fmbench.records.result import read

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent / "examples"
PROTOCOL = """
name = "own"
version = 1
summary = "for tests"
tasks = ["gaussian-8gaussians"]
samples = 256
seeds = [0, 1]
samplers = [{ solver = "euler", steps = 1 }, { solver = "euler", steps = 4 }, { solver = "sde-euler", steps = 8 }, { solver = "inverse" }]
metrics = ["wasserstein2", "truncation_gap", "straightness", "transport_cost", "nll"]
flow = { samples = 64, steps = 16, probes = 64, probe_steps = 16 }
latency = { batches = [1], seconds = 0.0 }
rank = { vector = "wasserstein2", image = "frechet_distance", steps = 4 }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)
    # What a package with these would have installed.
    info = folder / "tokens-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tokens\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fmbench.tasks]\ntoken-chain = tokens:chain_task\n[fmbench.metrics]\ntotal_variation = tokens:METRIC\n"
    )
    (folder / "own.toml").write_text(PROTOCOL)
    return folder


SESSION = """
import json, sys
from fmbench.cli import main

for words in json.loads(sys.argv[1]):
    if main(words):
        sys.exit(f"failed: {words}")
"""
"""Several commands in one process, which imports once."""


def call(place: Path, *commands: list[str]) -> str:
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", SESSION, json.dumps(commands)]
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def result(place: Path, spec: str, steps: int = 400, lr: float = 1e-3) -> dict:
    """Checked, trained and run as a user would; the result of it."""
    name = {"TwoTime": "two-time"}.get(spec.rpartition(":")[2], spec.rpartition(":")[2].lower())
    sets = ["--set", f"train.steps={steps}", "--set", f"train.lr={lr}", "--set", "division=open"]
    checks = call(
        place,
        ["check", spec, "--task", "gaussian-8gaussians"],
        ["train", "--method", spec, "--task", "gaussian-8gaussians", *sets],
        ["run", "own.toml", "-m", spec, "--out", f"out-{name}"],
    )
    assert "FAILED" not in checks
    return read(place / f"out-{name}/results/own/gaussian-8gaussians/{name}.json").to_json()


def rows(found: dict) -> dict[str, dict]:
    return {f"{row['solver']}-{row['steps']}": row for row in found["rows"]}


def test_a_two_time_map(place: Path) -> None:
    found = result(place, "two_time.py:TwoTime", 1500)
    one, four = (rows(found)[f"euler-{steps}"] for steps in (1, 4))
    assert one["nfe"]["network"] == 1
    assert four["nfe"]["network"] == 4
    # One jump from the source is already a sample of the target, which one Euler step of a velocity is not (above 4.5).
    assert one["metrics"]["wasserstein2"]["value"] < 3
    assert found["flow"]["straightness"]["value"] is None
    # The least that any map to the target can cost is W2^2 = 14.96, and independent pairs cost 27.
    assert found["flow"]["transport_cost"]["value"] == pytest.approx(16, rel=0.25)
    assert "this model samples with euler only" in rows(found)["inverse-None"]["metrics"]["wasserstein2"]["reason"]


def test_a_normalizing_flow_with_exact_likelihood(place: Path) -> None:
    found = result(place, "affine.py:Affine", 1500, 1e-2)
    row = rows(found)["inverse-None"]
    assert row["nfe"]["network"] == 1
    # The best Gaussian for eight on a circle of radius 5 with standard deviation sqrt(0.1): variance 25 / 2 + 0.1 each.
    entropy = math.log(2 * math.pi * math.e * (25 / 2 + 0.1))
    nll = found["flow"]["nll"]
    assert nll["value"] == pytest.approx(entropy, abs=0.25)
    assert nll["details"]["trace"] == "none"
    assert found["flow"]["straightness"]["value"] is None
    assert "bijection" in rows(found)["euler-4"]["metrics"]["wasserstein2"]["reason"]
    assert found["ranked"]


def test_two_networks_are_counted_apart(place: Path) -> None:
    found = result(place, "headed.py:Headed")
    assert rows(found)["euler-4"]["nfe"] == {"network": 4.0, "guidance": 0.0, "head": 12.0}
    assert found["flow"]["straightness"]["value"] > 0
    # Sixteen evaluations in all: the row within four is that of one step.
    page = (place / "out-headed/README.md").read_text()
    assert "headed" in page


def test_a_latent_flow_and_its_decoder(place: Path) -> None:
    found = result(place, "latent.py:Latent")
    row = rows(found)["euler-4"]
    assert row["nfe"] == {"network": 4.0, "guidance": 0.0, "decoder": 1.0}
    assert row["samples"]["n"] == 512
    assert found["flow"]["straightness"]["value"] is None
    assert found["flow"]["nll"]["value"] is None


def test_an_sde_on_the_oracle(place: Path) -> None:
    names = ["gaussian-8gaussians/oracle", "gaussian-8gaussians/ot-cfm"]
    call(place, ["run", "own.toml", "-m", *names, "--out", "out-sde"])
    oracle, trained = (
        read(place / f"out-sde/results/own/gaussian-8gaussians/{n}.json").to_json() for n in ("oracle", "ot-cfm")
    )
    assert rows(oracle)["sde-euler-8"]["nfe"]["network"] == 8
    assert rows(oracle)["sde-euler-8"]["metrics"]["wasserstein2"]["value"] < 2
    assert "sde-euler needs the score" in rows(trained)["sde-euler-8"]["metrics"]["wasserstein2"]["reason"]


TOKENS = """
name = "tokens"
version = 1
summary = "for tests"
tasks = ["token-chain"]
samples = 4000
seeds = [0]
samplers = [{ solver = "euler", steps = 1 }, { solver = "euler", steps = 16 }, { solver = "heun", steps = 4 }]
metrics = ["total_variation", "sliced_wasserstein2", "wasserstein2", "mmd", "precision", "mode_coverage", "truncation_gap", "straightness",
    "transport_cost", "normalized_path_energy", "velocity_error", "nll", "bits_per_dimension"]
flow = { samples = 16, steps = 4, probes = 4, probe_steps = 4 }
latency = { batches = [1], seconds = 0.0 }
rank = { token-chain = "total_variation", steps = 16 }
"""


def test_a_discrete_task_brings_its_space_and_its_metric(place: Path) -> None:
    (place / "tokens.toml").write_text(TOKENS)
    said = call(
        place,
        ["check", "tokens.py:Unmask", "--task", "token-chain"],
        ["train", "--method", "tokens.py:Unmask", "--task", "token-chain", "--set", "division=open"],
        ["run", "tokens.toml", "-m", "tokens.py:Unmask", "--out", "out-tokens"],
    )
    assert "FAILED" not in said
    real, found = (
        read(place / f"out-tokens/results/tokens/token-chain/{n}.json").to_json() for n in ("data", "unmask")
    )
    assert found["task"]["kind"] == "sequence"
    one, many = (rows(found)[f"euler-{steps}"] for steps in (1, 16))
    assert (one["nfe"]["network"], many["nfe"]["network"]) == (1, 16)
    # All tokens at once are drawn independently of each other: the distance is that of the product of the marginals.
    start, step = np.array([0.6, 0.3, 0.1]), np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]])
    law, product, share = start, start, start
    for _ in range(3):
        law, share = law[..., None] * step, share @ step
        product = product[..., None] * share
    apart = float(np.abs(law - product).sum() / 2)
    assert one["metrics"]["total_variation"]["value"] == pytest.approx(apart, abs=0.04)
    floor = real["rows"][0]["metrics"]["total_variation"]["value"]
    assert floor < many["metrics"]["total_variation"]["value"] < apart / 3
    assert rows(found)["heun-4"]["metrics"]["total_variation"]["reason"] == "this model jumps, in steps of euler"
    reasons = {name: e["reason"] for name, e in {**many["metrics"], **found["flow"]}.items() if e["value"] is None}
    assert set(reasons) == {*many["metrics"], *found["flow"]} - {"total_variation"}
    assert (
        reasons["sliced_wasserstein2"]
        == "needs coordinates, between which there are distances: samples of this task have none"
    )
    assert reasons["wasserstein2"] == "needs vectors: samples of this task are none"
    assert reasons["precision"] == "needs images: samples of this task are none"
    assert reasons["straightness"].endswith("the model has none")
    assert "TV @16" in (place / "out-tokens/README.md").read_text()
