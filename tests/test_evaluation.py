"""The harness: noise contract, resume, failures, anchors, measured NFE."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fmbench
from fmbench.evaluation.options import Options
from fmbench.evaluation.plan import plan
from fmbench.evaluation.run import evaluate_one, run
from fmbench.records import protocol, result
from fmbench.records.sampler import Sampler
from fmbench.storage.files import sha256
from fmbench.tasks.toys import gaussian_moons
from fmbench.zoo import catalogue

PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = {samples}
seeds = [0, 1, 2]
samplers = [{{ solver = "euler", steps = 1 }}, {{ solver = "heun", steps = 3 }}, {{ solver = "dopri5" }}]
metrics = ["wasserstein2", "sliced_wasserstein2", "frechet_distance", "truncation_gap", "straightness", "transport_cost"]
flow = {{ samples = 64, steps = 8, probes = 16, probe_steps = 8 }}
latency = {{ batches = [1, 32], seconds = 0.0 }}
rank = {{ vector = "wasserstein2", image = "frechet_distance", steps = 3 }}
"""
ENTRY = "gaussian-moons/cfm"


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(PROTOCOL.format(samples=300))
    return path


def facts(r):
    """A result without what legitimately differs between runs: clocks and memory."""
    content = r.to_json() if dataclasses.is_dataclass(r) else dict(r)
    for key in ("seconds", "phases", "created", "peak_memory_bytes", "environment", "retired", "runs"):
        content.pop(key, None)
    content["cost"].pop("memory", None)
    for row in content["rows"]:
        row.pop("latency")
    return json.loads(json.dumps(content))


def test_a_result_is_complete_and_survives_its_file(tiny, tmp_path):
    data, model = fmbench.evaluate(ENTRY, tiny, out=tmp_path / "out")
    path = tmp_path / "out" / "results" / "tiny" / "gaussian-moons" / "cfm.json"
    assert result.read(path).to_json() == json.loads(json.dumps(model.to_json(), default=list)) or facts(
        result.read(path)
    ) == facts(model)
    assert model.model["weights_sha256"] == catalogue.find(ENTRY).recipe.weights.sha256
    assert model.benchmark["sha256"] == protocol.read(tiny).sha256
    assert not list((tmp_path / "out" / ".units").glob("*/*"))
    for row in model.rows:
        assert set(row.metrics) == {"wasserstein2", "sliced_wasserstein2", "frechet_distance", "truncation_gap"}
        assert row.metrics["frechet_distance"].value is None
        assert "image" in row.metrics["frechet_distance"].reason
        low, high = row.metrics["wasserstein2"].ci
        assert low < row.metrics["wasserstein2"].value < high
        assert row.metrics["wasserstein2"].n == 900
        assert [part["batch"] for part in row.latency["batches"]] == [1, 32]
        assert row.latency["p50"] > 0
    assert data.rows[0].solver == "none"
    assert data.flow["straightness"].value is None
    assert model.cost["flops_per_evaluation"] > 0
    assert model.cost["parameters"] == model.model["parameters"]


def test_nfe_is_measured(tiny):
    _, model = fmbench.evaluate(ENTRY, tiny)
    euler, heun, dopri5 = model.rows
    assert euler.nfe == {"network": 1.0, "guidance": 0.0}
    assert heun.nfe["network"] == 6.0
    assert dopri5.nfe["network"] >= 14
    assert dopri5.steps is None
    gaps = [row.metrics["truncation_gap"] for row in model.rows]
    assert gaps[0].value > gaps[1].value > gaps[2].value > 0
    assert gaps[0].n == 64


@pytest.mark.slow
def test_samples_do_not_depend_on_the_batch_size(tiny):
    spec, task = protocol.read(tiny), gaussian_moons()
    by_size = {}
    for size in (100, 256, 1000):
        model = fmbench.load(ENTRY)
        by_size[size] = evaluate_one(spec, task, model, Options(batch_size=size), None)
    for size in (100, 1000):
        for row, other in zip(by_size[256].rows, by_size[size].rows, strict=True):
            assert row.metrics["wasserstein2"].value == pytest.approx(other.metrics["wasserstein2"].value, abs=1e-5)
        # An adaptive solver always sees one noise block, so its samples are identical to the bit.
        assert by_size[size].rows[2].samples["sha256"] == by_size[256].rows[2].samples["sha256"]


@pytest.mark.slow
def test_samples_agree_to_float_tolerance_for_all_batch_sizes():
    model = fmbench.load(ENTRY)
    reference = model.sample(1000, seed=5, steps=8, batch_size=256)
    for size in (1, 100, 1000):
        gap = float((model.sample(1000, seed=5, steps=8, batch_size=size) - reference).abs().max())
        assert gap < 1e-5, (size, gap)
    assert sha256(model.sample(1000, seed=5, steps=8).numpy().tobytes()) == sha256(reference.numpy().tobytes())


@pytest.mark.slow
def test_a_finished_result_is_not_made_again_until_something_changes(tiny, tmp_path):
    out = tmp_path / "out"
    first = run(tiny, [ENTRY], out).results[1]
    assert run(tiny, [ENTRY], out).results[1].created == first.created
    assert run(tiny, [ENTRY], out).results[1].seconds == first.seconds
    changed = Options(dtype="bfloat16")
    for unranked in (Options(limit=100), Options(seed_set=1), changed):
        refused = run(tiny, [ENTRY], out, options=unranked)
        assert any("is a ranked result, and this run" in error for error in refused.errors)
    assert run(tiny, [ENTRY], out).results[1].created == first.created
    limited = run(tiny, [ENTRY], tmp_path / "other", options=Options(limit=100)).results[1]
    assert not limited.ranked
    assert limited.rows[0].samples["n"] == 300
    again = run(tiny, [ENTRY], tmp_path / "other").results[1]
    assert again.ranked
    assert facts(again) == facts(first)


@pytest.mark.slow
def test_a_finished_result_is_made_again_under_another_acceleration(tiny, tmp_path):
    """Neither the data anchor, which passes no network, nor what was made before stands in for it."""
    options = [Options(limit=40, dtype=dtype) for dtype in ("float32", "bfloat16")]
    plain, fast = (run(tiny, [ENTRY], tmp_path, options=o).results for o in options)
    assert plain[0].created == fast[0].created
    assert plain[1].rows[0].samples["sha256"] != fast[1].rows[0].samples["sha256"]
    assert fast[1].environment["acceleration"]["dtype"] == "bfloat16"


@pytest.mark.slow
def test_another_reference_solve_measures_what_depends_on_it_only(tiny, tmp_path):
    """The flow and the gap to where it ends; the rows stay, and say in which run they were made."""
    out = tmp_path / "out"
    before = run(tiny, [ENTRY], out).results
    tiny.write_text(tiny.read_text().replace("version = 1", "version = 2").replace("steps = 8", "steps = 16"))
    after = run(tiny, [ENTRY], out).results
    assert [r.benchmark["version"] for r in after] == [2, 2]
    for old, new in zip(before, after, strict=True):
        assert [row.samples for row in new.rows] == [row.samples for row in old.rows]
        assert [row.latency for row in new.rows] == [row.latency for row in old.rows]
        for was, row in zip(old.rows, new.rows, strict=True):
            same = {n: e for n, e in was.metrics.items() if n != "truncation_gap"}
            assert {n: e for n, e in row.metrics.items() if n != "truncation_gap"} == same
        assert result.read(out / "results" / "tiny" / "gaussian-moons" / f"{new.entry}.json") == new
    assert after[1].flow["straightness"].details["steps"] == 16
    assert after[1].flow["straightness"].value != before[1].flow["straightness"].value
    gaps = [r.rows[0].metrics["truncation_gap"] for r in (before[1], after[1])]
    assert gaps[0].value != gaps[1].value
    # As if it had been measured from the beginning.
    fresh = run(tiny, [ENTRY], tmp_path / "fresh").results[1]
    assert [row.metrics for row in fresh.rows] == [row.metrics for row in after[1].rows]
    assert fresh.flow == after[1].flow
    (filled,) = after[1].runs
    assert gaps[1].run == after[1].flow["straightness"].run == filled
    assert after[1].rows[0].metrics["wasserstein2"].run == ""
    assert after[1].created == before[1].created
    assert {cell["value"] for table in after[1].retired.values() for cell in table.values()} >= {
        float(f"{gaps[0].value:.6g}")
    }


@pytest.mark.slow
def test_another_seed_set_draws_other_samples_and_is_not_ranked(tiny, tmp_path):
    spec, task, model = protocol.read(tiny), gaussian_moons(), fmbench.load(ENTRY)
    one = evaluate_one(spec, task, model, Options(), None)
    two = evaluate_one(spec, task, model, Options(seed_set=1), None)
    assert two.seeds == (1000, 1001, 1002)
    assert not two.ranked
    assert one.rows[0].samples["sha256"] != two.rows[0].samples["sha256"]


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
from fmbench.cli import main

command, whole, timed, broken = sys.argv[1:-3], *sys.argv[-3:]

def run(out):
    child = os.fork()
    if child == 0:
        try:
            os._exit(main([*command, out]))
        finally:
            os._exit(9)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert main([*command, whole]) == 0  # also imports what the forks need
started = time.monotonic()
assert ended(run(timed)) == 0
duration, chance = time.monotonic() - started, random.Random(7)
for _ in range(5):
    child = run(broken)
    time.sleep(chance.uniform(0.1, 0.9) * duration)
    os.kill(child, signal.SIGKILL)
    print("killed" if ended(child) == -signal.SIGKILL else "too late", file=sys.stderr)
    for path in Path(broken).rglob("*.json"):
        json.loads(path.read_text())  # whole or not there
assert ended(run(broken)) == 0
"""
"""Processes that hold their imports already are killed wherever they are: the time of a start would only dilute the points."""


@pytest.mark.slow
def test_a_run_killed_at_random_points_ends_like_an_unbroken_one(tmp_path):
    spec = tmp_path / "tiny.toml"
    spec.write_text(PROTOCOL.format(samples=600))
    whole, timed, broken = (tmp_path / name for name in ("whole", "timed", "broken"))
    words = ["run", str(spec), "-m", ENTRY, "--workers", "1", "--json", "--out"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, *map(str, (whole, timed, broken))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("killed") >= 2, done.stderr
    for name in ("data", "cfm"):
        one, two = (result.read(out / f"results/tiny/gaussian-moons/{name}.json") for out in (whole, broken))
        assert facts(one) == facts(two)
    # What a killed write left beside its file may be in use for all that others know, until it is a day old.
    (broken / "results" / ".cfm.json.abcdefgh.tmp").write_text("{")
    for left in broken.rglob("*.tmp"):
        os.utime(left, (0, 0))
    (broken / ".cfm.json.abcdefgh.tmp").write_text("{")
    run(spec, [ENTRY], broken)
    assert [left.name for left in broken.rglob("*.tmp")] == [".cfm.json.abcdefgh.tmp"]


def test_units_of_a_broken_run_are_used(tiny, tmp_path, monkeypatch):
    """A crash after the first sampler leaves its units; the next run does not sample them again."""
    from fmbench.zoo import model as models

    out, calls = tmp_path / "out", []
    original = models.generate

    def counted(method, draws, sampler, *more):
        calls.append(sampler.solver)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(method, draws, sampler, *more)

    monkeypatch.setattr(models, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, [ENTRY], out)
    assert calls == ["euler"] * 3 + ["heun"] * 2
    calls[:] = [""] * 100
    run(tiny, [ENTRY], out)
    assert calls[100:] == ["heun"] * 2 + ["dopri5"] * 6


class Diverging(nn.Module):
    """A field that gives NaN for a few samples in a thousand, none of them among those of the trial."""

    def forward(self, x, t):
        return torch.where((x > 2.5) & (t[:, None] == 0), torch.nan, x)


def test_nan_samples_fail_their_row_with_the_reason_and_the_others_go_on(tiny):
    _, bad = fmbench.evaluate(fmbench.wrap(Diverging(), "gaussian-moons", "diverging"), tiny)
    assert all("NaN" in row.failed for row in bad.rows)
    assert all(e.value is None for row in bad.rows for e in row.metrics.values())
    assert "NaN" in bad.flow["straightness"].reason
    json.dumps(bad.to_json(), allow_nan=False)


class Raising(nn.Module):
    """Raises in the batches of one solver only (heun, two calls a step), or in all."""

    def __init__(self, error, batch=None):
        super().__init__()
        self.error, self.batch = error, batch

    def forward(self, x, t):
        if self.batch is None or len(x) == self.batch:
            raise self.error
        return -x


def test_a_model_that_raises_is_one_line_before_anything_is_scored(tiny):
    model = fmbench.wrap(Raising(RuntimeError("out of cheese")), "gaussian-moons", "raising")
    with pytest.raises(ValueError, match="RuntimeError: out of cheese") as caught:
        model.sample(3)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match="sample: RuntimeError: out of cheese"):
        fmbench.evaluate(model, tiny)


def test_a_sampler_that_raises_fails_its_row_and_the_others_go_on(tiny):
    """Only adaptive solvers get 256 samples at once here: a block, where others get all 300."""
    model = fmbench.wrap(Raising(RuntimeError("out of cheese"), 256), "gaussian-moons", "raising")
    _, bad = fmbench.evaluate(model, tiny)
    assert [row.failed for row in bad.rows] == [None, None, "RuntimeError: out of cheese"]
    assert bad.rows[0].metrics["wasserstein2"].value > 0
    assert bad.flow["transport_cost"].value > 0


@pytest.mark.slow
def test_corrupted_weights_are_one_line_and_the_others_go_on(tiny, tmp_path):
    import shutil

    folder = tmp_path / "entry"
    shutil.copytree(catalogue.find(ENTRY).folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10] + b"0123456789")
    outcome = run(tiny, [str(folder), ENTRY], tmp_path / "out")
    (line,) = outcome.errors
    assert "expected" in line
    assert "found" in line
    assert [r.model["name"] for r in outcome.results] == ["gaussian-moons/data", ENTRY]


def test_bad_requests_are_refused_before_any_work(tiny, tmp_path):
    with pytest.raises(ValueError, match="empty"):
        run(tiny, [], tmp_path / "out")
    with pytest.raises(ValueError, match="gaussian-8gaussians"):
        run(tiny, ["gaussian-8gaussians/cfm"], tmp_path / "out")
    with pytest.raises(ValueError, match="at least 1"):
        Options(batch_size=0)
    with pytest.raises(ValueError, match="at least 1"):
        Options(limit=0)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(PermissionError, match="--out"):
        run(tiny, [ENTRY], file / "below")


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(tiny, tmp_path):
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from fmbench.evaluation.run import run\n"
        "import fmbench.evaluation.evaluation, fmbench.metrics.wasserstein, ot, scipy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"run({str(tiny)!r}, [{ENTRY!r}], Path({str(tmp_path / 'out')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    (left,) = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert left.read_text() == tiny.read_text(), "the copy of the protocol fits and is whole, nothing else is there"


def test_the_plan_has_the_data_anchor_first_and_every_bundled_entry():
    spec = protocol.read("quick")
    names = [one.name for one in plan(spec, None)]
    assert names[0] == "gaussian-8gaussians/data"
    assert {"digits/oracle", "digits/cfm", "gaussian-moons/oracle"} <= set(names)
    assert not [name for name in names if "digits-cnn" in name]


@pytest.mark.slow
def test_torchcfm_networks_are_evaluated_as_they_are(tiny):
    models = pytest.importorskip("torchcfm.models.models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.MLP(dim=2, w=32, time_varying=True)
    wrapped = fmbench.wrap(net, "gaussian-moons", "torchcfm-mlp", lambda m, x, t: m(torch.cat([x, t[:, None]], dim=1)))
    data, foreign = fmbench.evaluate(wrapped, tiny)
    assert foreign.rows[0].nfe["network"] == 1.0
    assert foreign.flow["straightness"].value > 0
    # Its own Euler loop on the harness's noise gives the harness's samples.
    x = wrapped.noise(0, 300, 0)
    with torch.no_grad():
        for k in range(4):
            x = x + net(torch.cat([x, torch.full((300, 1), k / 4)], dim=1)) / 4
    np.testing.assert_allclose(wrapped.sample(300, seed=0, steps=4), x, atol=1e-5)
    assert data.rows[0].metrics["wasserstein2"].value < foreign.rows[0].metrics["wasserstein2"].value


@pytest.mark.slow
def test_the_data_row_is_the_floor_and_the_oracle_reaches_it(tmp_path):
    spec = protocol.read("quick")
    spec = dataclasses.replace(spec, samplers=(Sampler("euler", 64),), samples=400)
    data = evaluate_one(spec, gaussian_moons(), None, Options(), None)
    oracle = evaluate_one(spec, gaussian_moons(), fmbench.load("gaussian-moons/oracle"), Options(), None)
    floor, exact = data.rows[0].metrics["wasserstein2"], oracle.rows[0].metrics["wasserstein2"]
    assert exact.value < 1.5 * floor.value
    assert oracle.model["division"] == "anchor"


def test_protocols_refuse_what_they_do_not_know(tiny):
    text = tiny.read_text()
    for wrong, message in (
        (text.replace("wasserstein2", "waserstein2", 1), "nearest: wasserstein2"),
        (text.replace("gaussian-moons", "gaussian-moon"), "nearest: gaussian-moons"),
        (text.replace('"heun"', '"hoin"'), "nearest: .*heun"),
        (text + "\nextra = 1", "extra"),
        (text.replace("version = 1", 'version = "1"'), "version must be int"),
        (text.replace("summary", "sumary"), "summary"),
    ):
        tiny.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            protocol.read(tiny)


def test_the_hash_of_a_protocol_changes_with_its_content_not_its_layout(tiny):
    before = protocol.read(tiny).sha256
    text = tiny.read_text()
    tiny.write_text("# a comment\n" + text)
    assert protocol.read(tiny).sha256 == before
    tiny.write_text(text.replace("samples = 300", "samples = 301"))
    assert protocol.read(tiny).sha256 != before


def test_every_bundled_protocol_can_be_read():
    for name in fmbench.list_benchmarks():
        spec = protocol.read(name)
        assert spec.name == name
        assert Path(name).name == name


@pytest.mark.slow
def test_every_registered_metric_is_described_and_gives_a_number_or_a_reason():
    from fmbench.records.metric import METRICS
    from fmbench.registry import TASKS

    spec = dataclasses.replace(
        protocol.read("digits"), metrics=tuple(METRICS), samples=40, samplers=(Sampler("euler", 2),)
    )
    found = evaluate_one(
        spec, TASKS.resolve("digits")(), fmbench.load("digits/oracle"), Options(limit=40, extended=True), None
    )
    estimates = {**found.rows[0].metrics, **found.flow}
    assert set(estimates) == set(METRICS)
    for name, estimate in estimates.items():
        assert (estimate.value is None) == bool(estimate.reason), name
    vectors_only = {name for name, i in METRICS.items() if {"vector", "w2_squared"} & set(i.needs)}
    # The oracle of a finite set ends in points, which have no density.
    assert {name for name, e in estimates.items() if e.value is None} == {*vectors_only, "bits_per_dimension"}
