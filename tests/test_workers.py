"""Any number of processes gives the same numbers; times are taken when they are done; whatever ends a process, the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import fmbench
from fmbench.evaluation import produce
from fmbench.evaluation.evaluation import Evaluation
from fmbench.evaluation.identity import identified
from fmbench.evaluation.one import evaluate_one
from fmbench.evaluation.options import Options
from fmbench.evaluation.produce import Order, identity_of, merged
from fmbench.evaluation.run import evaluate, run
from fmbench.records import protocol, result
from fmbench.records.sampler import Sampler
from fmbench.report.profile import profile, times
from fmbench.storage.files import sha256
from fmbench.zoo import model as models

TASK = "gaussian-moons"
ENTRIES = [f"{TASK}/cfm", f"{TASK}/rf-distill"]
PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 300
seeds = [0, 1]
samplers = [{ solver = "euler", steps = 1 }, { solver = "heun", steps = 2 }, { solver = "dopri5" }]
metrics = ["wasserstein2", "mmd", "truncation_gap", "straightness", "transport_cost"]
flow = { samples = 32, steps = 4, probes = 8, probe_steps = 4 }
latency = { batches = [1, 16], seconds = 0.0 }
rank = { vector = "wasserstein2", steps = 2 }
"""
MODEL = """
import os, signal
from pathlib import Path
import torch
from torch import nn
from fmbench.methods import VelocityMethod

class Net(nn.Module):
    num_classes = 0
    def forward(self, x, t):
        {act}
        return 1.0 - x

class {name}(VelocityMethod):
    @classmethod
    def build_net(cls, task, net, conditional):
        return Net()
    def loss(self, batch, generator):
        return batch.x0.mean()
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(PROTOCOL)
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "tiny.toml").write_text(PROTOCOL)
    return run(folder / "tiny.toml", ENTRIES, folder / "out", options=Options(workers=1)).results


def model(folder, name, act="pass"):
    path = folder / f"{name.lower()}.py"
    path.write_text(MODEL.format(name=name, act=act))
    return f"{path}:{name}"


def facts(found):
    """Hashes, evaluations and every number of a result."""
    content = json.loads(json.dumps(found.to_json()))
    rows = [{k: row[k] for k in ("id", "samples", "nfe", "failed", "metrics")} for row in content["rows"] if row]
    return content["model"], rows, content["flow"], content["cost"].get("flops_per_sample")


def timed(found):
    """Whether every row with samples of a model has its latency."""
    return [row.latency is not None for row in found.rows if row.samples and found.entry != "data"]


@pytest.mark.slow
@pytest.mark.parametrize("models", [ENTRIES, ENTRIES[:1]], ids=["whole evaluations", "units of one"])
def test_hashes_and_all_numbers_are_those_of_one_process(models, alone, tiny, tmp_path):
    outcome = run(tiny, models, tmp_path / "out", options=Options(workers=2))
    assert not outcome.errors
    assert list(map(facts, outcome.results)) == list(map(facts, alone[: 1 + len(models)]))
    assert not list((tmp_path / "out/.units").glob("*/*"))
    for found in outcome.results:
        assert found.environment["threads"] == 1
        assert all(timed(found))
        assert result.read(tmp_path / f"out/results/tiny/{TASK}/{found.entry}.json") == found
        assert 0 < sum(found.phases.values()) <= found.seconds + 0.01
    assert outcome.results[1].phases["latency"] > 0
    assert run(tiny, models, tmp_path / "out", options=Options(workers=2)).results == outcome.results


@pytest.mark.slow
def test_a_model_of_one_string_is_sampled_by_several_and_an_object_here(alone, tiny, monkeypatch):
    _, found = evaluate(ENTRIES[0], tiny, workers=2)
    assert facts(found) == facts(alone[1])
    monkeypatch.setattr("fmbench.execution.processes.subprocess.Popen", lambda *_, **__: pytest.fail("a process"))
    _, wrapped = evaluate(fmbench.wrap(nn.Linear(2, 2), TASK, "linear", lambda m, x, t: m(x)), tiny, workers=2)
    assert wrapped.rows[0].metrics["wasserstein2"].value > 0


@pytest.mark.slow
def test_times_are_filled_in_later_and_nothing_is_sampled_for_them(alone, tiny, tmp_path, monkeypatch):
    spec, loaded = protocol.read(tiny), fmbench.load(ENTRIES[0])
    untimed = evaluate_one(spec, loaded.task, loaded, Options(), tmp_path, timed=False)
    assert timed(untimed) == [False] * 3
    assert "latency" not in untimed.phases
    assert facts(untimed) == facts(alone[1])
    assert evaluate_one(spec, loaded.task, loaded, Options(), tmp_path, timed=False) == untimed
    monkeypatch.setattr(models, "generate", lambda *_, **__: pytest.fail("sampled"))
    monkeypatch.setattr("fmbench.evaluation.one.trial", lambda *_: pytest.fail("tried"))
    whole = evaluate_one(spec, loaded.task, loaded, Options(), tmp_path)
    assert timed(whole) == [True] * 3
    assert facts(whole) == facts(untimed)
    assert (whole.created, whole.runs) == (untimed.created, {})
    assert whole.phases == {**untimed.phases, "latency": whole.phases["latency"]}
    assert whole.seconds >= untimed.seconds


@pytest.mark.slow
def test_a_failure_in_a_process_is_told_as_here(alone, tiny, tmp_path):
    bad = model(tmp_path, "Raising", "raise TypeError('no' + chr(10) + 'more')")
    lines = []
    for workers in (1, 2):
        outcome = run(tiny, [bad, *ENTRIES], tmp_path / f"out{workers}", options=Options(workers=workers))
        assert list(map(facts, outcome.results)) == list(map(facts, alone))
        lines.append(outcome.errors)
    assert lines[0] == lines[1]
    assert lines[0][0].startswith(f"{bad}: sample: TypeError: no")


@pytest.mark.slow
@pytest.mark.parametrize("many", [True, False], ids=["whole evaluations", "units of one"])
def test_a_process_that_is_killed_costs_one_line_and_the_next_run_goes_on(many, alone, tiny, tmp_path):
    """The second sampler, half-way through all 300 rows, kills its process, as the system does when memory runs out."""
    fatal = f"(Path({str(tmp_path)!r}) / 'armed').exists() and len(x) == 300 and float(t[0]) == 0.5 and os.kill(os.getpid(), signal.SIGKILL)"
    mine, others = model(tmp_path, "Mine", fatal), ENTRIES if many else []
    (tmp_path / "armed").touch()
    out, options = tmp_path / "out", Options(workers=2)
    broken = run(tiny, [mine, *others], out, options=options)
    (line,) = broken.errors
    assert line.startswith(f"{mine}: ")
    assert "its process was killed (SIGKILL)" in line
    assert list(map(facts, broken.results)) == list(map(facts, alone[: 1 + len(others)]))
    kept = {path: path.stat().st_mtime_ns for path in (out / ".units").glob("*/*")}
    assert kept
    (tmp_path / "armed").unlink()
    healed = run(tiny, [mine, *others], out, options=options)
    fresh = run(tiny, [mine, *others], tmp_path / "fresh", options=Options(workers=1))
    assert not healed.errors
    assert list(map(facts, healed.results)) == list(map(facts, fresh.results))


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_leaves_no_process(alone, tiny, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fmbench", "run", str(tiny), "--json", "--out", str(out), "--workers", "2", "-m"]
    broken = subprocess.Popen([*command, *ENTRIES], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(out.glob("results/tiny/*/*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    for path in out.rglob("*.json"):
        json.loads(path.read_text())
    done = subprocess.run([*command, *ENTRIES], capture_output=True, text=True, env={**os.environ}, check=True)
    found = [result.parse(one) for one in json.loads(done.stdout)]
    assert list(map(facts, found)) == list(map(facts, alone))
    assert [timed(one) for one in found] == [[], [True] * 3, [True]]


def test_an_order_travels_as_json_and_gives_the_samples_of_the_model(tiny):
    loaded = identified(fmbench.load(ENTRIES[0]))
    one = Evaluation(protocol.read(tiny), loaded.task, loaded, Options(), None, None)
    (order,) = one.orders(Sampler("heun", 2), 1, ENTRIES[0])
    again = Order.of(json.loads(json.dumps(order.plain())))
    assert again == order
    whole = produce.produce(again)
    expected = loaded.sample(300, seed=1, solver="heun", steps=2, batch_size=1024)
    assert sha256(whole.samples.numpy()) == sha256(expected.numpy())
    halves = [produce.produce(one.order(order.sampler, 1, *rows, ENTRIES[0])) for rows in ((0, 256), (256, 300))]
    assert merged(halves).counts == whole.counts
    assert torch.allclose(merged(halves).samples, whole.samples, atol=1e-6)


def test_an_order_for_a_model_that_was_changed_is_refused(tiny):
    loaded = identified(fmbench.load(ENTRIES[0]))
    order = Order(ENTRIES[1], identity_of(loaded), TASK, Sampler("euler", 1), 0, 0, 4)
    with pytest.raises(ValueError, match="was changed while it was sampled; run the same command again"):
        produce.produce(order)


def test_the_number_of_processes(monkeypatch):
    monkeypatch.setattr("fmbench.evaluation.options.usable_threads", lambda: 4)
    auto = Options()
    assert [auto.processes("cpu", models) for models in (0, 1, 2, 4, 50)] == [1, 1, 2, 4, 4]
    assert auto.processes("cuda:0", 50) == 1
    assert Options(workers=3).processes("cuda", 1) == 3
    for wrong in (0, "many", 1.5, True, None):
        with pytest.raises(ValueError, match="workers must be"):
            Options(workers=wrong)


@pytest.mark.slow
def test_the_profile_adds_up(alone):
    titles, rows = profile(alone)
    assert titles[0] == "seconds" and titles[-3:] == ["other", "whole", "ratio"]
    table = {row[0]: dict(zip(titles[1:], row[1:], strict=True)) for row in rows}
    assert list(table) == [f"{TASK}/data", *ENTRIES, "all"]
    for found in alone:
        assert sum(times(found).values()) == pytest.approx(found.seconds, abs=0.01)
    whole = sum(one.seconds for one in alone)
    assert float(table["all"]["whole"]) == pytest.approx(whole, abs=0.02)
    assert table[f"{TASK}/data"]["ratio"] == "-"
    sampling = sum(one.phases.get("sampling", 0.0) for one in alone)
    assert float(table["all"]["ratio"]) == pytest.approx(whole / sampling, rel=0.05, abs=0.06)


def test_an_order_says_all_of_its_sampler(tmp_path):
    """Also what no protocol can say yet: a grid and options that were left behind would give other samples without a word."""
    for sampler in (
        Sampler("euler", grid=(0.0, 0.25, 1.0)),
        Sampler("dopri5", options={"rtol": 1e-3, "atol": 1e-3}),
        Sampler("heun", 3, guidance=2.0),
    ):
        order = Order("m", "i", TASK, sampler, 0, 0, 4)
        assert Order.of(json.loads(json.dumps(order.plain()))) == order
