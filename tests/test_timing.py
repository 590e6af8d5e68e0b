"""Latency belongs to an architecture and a sampler: what shares one, what does not, and what is kept of it."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import fmbench
from fmbench.cli import main
from fmbench.evaluation import timing
from fmbench.evaluation.acceleration import Acceleration
from fmbench.evaluation.identity import identified
from fmbench.evaluation.retiming import measure_latencies, retimed
from fmbench.evaluation.timing import Book, Wish, timing_key
from fmbench.records import result
from fmbench.records.result import Row
from fmbench.records.sampler import Sampler
from fmbench.storage.bundled import data_folder

SETTINGS = {"batches": [1, 4], "seconds": 0.0}
EULER = Sampler("euler", 2)


def key(model, sampler=EULER, batches=(1, 4), acceleration=timing.PLAIN):
    return timing_key(identified(model), sampler, batches, "cpu", acceleration)


@pytest.fixture(scope="module")
def cfm():
    return fmbench.load("gaussian-moons/cfm")


def test_entries_that_differ_in_their_training_alone_share_a_latency(cfm):
    shared = [fmbench.load(f"gaussian-{name}") for name in ("moons/ot-cfm", "moons/rf-2", "8gaussians/sb-cfm")]
    assert {key(model) for model in shared} == {key(cfm)}


@pytest.mark.parametrize("other", ["gaussian-moons/oracle", "gaussian-moons/rf-distill", "digits/cfm"])
def test_another_flow_or_network_has_its_own(cfm, other):
    assert key(fmbench.load(other), Sampler("euler", 1)) != key(cfm, Sampler("euler", 1))


def test_sampler_batches_threads_and_precision_are_part_of_the_name(cfm):
    names = [
        key(cfm),
        key(cfm, Sampler("euler", 3)),
        key(cfm, Sampler("heun", 2)),
        key(cfm, batches=(1, 8)),
        key(cfm, acceleration=Acceleration(dtype="bfloat16")),
    ]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        names.append(key(cfm))
    finally:
        torch.set_num_threads(threads)
    assert len(set(names)) == len(names)


def test_an_adaptive_solver_has_the_weights_in_its_name(cfm):
    """Its steps depend on them."""
    other = fmbench.load("gaussian-moons/ot-cfm")
    assert key(cfm, Sampler("dopri5")) != key(other, Sampler("dopri5"))


def wrapped(width):
    net = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
    return fmbench.wrap(net, "gaussian-moons", "mine", lambda m, x, t: m(torch.cat([x, t[:, None]], dim=1)))


def test_foreign_code_shares_with_nobody_and_code_that_cannot_be_told_has_no_name():
    one = wrapped(8)
    assert key(one) is not None and key(one) == key(one) != key(wrapped(8))
    told = identified(one)
    untold = dataclasses.replace(told, identity={**told.identity, "code_sha256": None})
    assert timing_key(untold, EULER, (1, 4), "cpu") is None


def test_each_name_is_measured_once_and_written_down(cfm, tmp_path, monkeypatch):
    measured = []
    real = timing.measure_wishes
    monkeypatch.setattr(
        timing, "measure_wishes", lambda wishes, *more: measured.append(len(wishes)) or real(wishes, *more)
    )
    models = [
        identified(m) for m in (cfm, fmbench.load("gaussian-moons/ot-cfm"), fmbench.load("gaussian-moons/oracle"))
    ]
    wishes = [Wish(key(m), m, EULER) for m in models]
    one, other, oracle = Book(tmp_path).fill(wishes, SETTINGS, "cpu")
    assert one == other != oracle and measured == [2]
    assert [row["batch"] for row in one["batches"]] == [1, 4] and one["key"] == wishes[0].key
    # Another process finds them in the file; what was void there is tried again.
    file = tmp_path / timing.FILE
    content = json.loads(file.read_text())
    for latency in content["latencies"].values():
        latency |= {"stable": True, "void": None}
    file.write_text(json.dumps(content))
    assert Book(tmp_path).fill(wishes[:1], SETTINGS, "cpu") == [content["latencies"][wishes[0].key]]
    assert measured == [2, 0]
    content["latencies"][wishes[0].key] |= {"stable": False, "void": "busy"}
    file.write_text(json.dumps(content))
    Book(tmp_path).fill(wishes[:2], SETTINGS, "cpu")
    assert measured == [2, 0, 1]
    again = Book(tmp_path).fill(wishes[:1], SETTINGS, "cpu", again=True)
    assert measured == [2, 0, 1, 1] and Book(tmp_path).known[wishes[0].key] == json.loads(json.dumps(again[0]))


def test_what_has_no_name_is_measured_every_time_and_not_kept(cfm, tmp_path):
    book = Book(tmp_path)
    found = book.fill([Wish(None, cfm, EULER), Wish(None, cfm, EULER)], SETTINGS, "cpu")
    assert all("p50" in one and "key" not in one for one in found)
    assert not book.known and not (tmp_path / timing.FILE).exists()


def test_a_model_that_fails_says_why_and_the_others_are_timed(cfm, tmp_path):
    def broken(m, x, t):
        raise RuntimeError("no luck")

    bad = fmbench.wrap(nn.Linear(3, 2), "gaussian-moons", "bad", broken)
    found = Book(tmp_path).fill([Wish("b", bad, EULER), Wish("c", cfm, EULER)], SETTINGS, "cpu")
    assert "no luck" in found[0]["failed"] and found[1]["p50"] > 0
    assert set(Book(tmp_path).known) == {"c"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "latency.json"),
        ('{"schema": 1}', "latencies"),
        ('{"schema": 1, "latencies": {"a": {"batch": 1, "p50": -1}}}', "p50"),
        ('{"schema": 1, "latencies": {"a": {"batch": 1, "p50": 1, "low": 2, "high": 3}}}', "between low and high"),
    ],
)
def test_a_damaged_file_is_named(content, message, tmp_path):
    (tmp_path / timing.FILE).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        Book(tmp_path)
    assert str(tmp_path / timing.FILE) in str(caught.value) and "\n" not in str(caught.value)


# -- fmbench latency ---------------------------------------------------------------------------------------------------

PROTOCOL = """
name = "tiny"
version = 1
summary = "two samplers"
tasks = ["gaussian-moons"]
samples = 16
seeds = [0]
samplers = [{ solver = "euler", steps = 1 }, { solver = "euler", steps = 2 }]
metrics = ["sliced_wasserstein2"]

[flow]
samples = 16
steps = 2
probes = 4
probe_steps = 2

[latency]
batches = [1]
seconds = 0.0

[rank]
vector = "sliced_wasserstein2"
image = "frechet_distance"
steps = 2
"""


def test_latencies_alone_are_written_into_the_results_and_nothing_else(tmp_path, capsys):
    protocol, out = tmp_path / "tiny.toml", tmp_path / "out"
    protocol.write_text(PROTOCOL)
    fmbench.evaluate("gaussian-moons/cfm", protocol, out=out, device="cpu")
    path = out / "results" / "tiny" / "gaussian-moons" / "cfm.json"
    before = result.read(path)
    unsound = [dataclasses.replace(row, latency={**row.latency, "stable": False}) for row in before.rows]
    dataclasses.replace(before, rows=tuple(unsound)).save(out / "results")

    names = ["gaussian-moons/cfm", "gaussian-moons/rf-2"]
    assert main(["latency", str(protocol), "-m", *names, "--out", str(out), "--overwrite", "--device", "cpu"]) == 0
    after = result.read(path)
    assert [row.latency["repeats"] for row in after.rows] == [5, 5]
    assert all(row.latency["key"] in timing.Book(out).known for row in after.rows)
    for row, old in zip(after.rows, before.rows, strict=True):
        assert row.metrics == old.metrics and row.samples == old.samples and row.id == old.id
    shown = capsys.readouterr().out
    assert "gaussian-moons/cfm +1" in shown and "that have these latencies now: 1" in shown
    assert not (out / "results" / "tiny" / "gaussian-moons" / "rf-2.json").exists()


def test_a_damaged_file_of_latencies_stops_a_run_before_any_work(tmp_path, capsys, monkeypatch):
    protocol, out = tmp_path / "tiny.toml", tmp_path / "out"
    protocol.write_text(PROTOCOL)
    out.mkdir()
    (out / timing.FILE).write_text("{")
    monkeypatch.setattr("fmbench.evaluation.run.evaluate_one", lambda *_, **__: pytest.fail("evaluated"))
    assert main(["run", str(protocol), "-m", "gaussian-moons/cfm", "--out", str(out), "--device", "cpu"]) == 1
    assert str(out / timing.FILE) in capsys.readouterr().err


def test_latencies_of_the_plain_network_are_not_written_into_an_accelerated_result(tmp_path):
    protocol, out = tmp_path / "tiny.toml", tmp_path / "out"
    protocol.write_text(PROTOCOL)
    fmbench.evaluate("gaussian-moons/cfm", protocol, out=out, device="cpu", dtype="bfloat16")
    path = out / "results" / "tiny" / "gaussian-moons" / "cfm.json"
    before = path.read_bytes()
    done = measure_latencies(protocol, ["gaussian-moons/cfm"], out, device="cpu", again=True)
    assert done.timed and not done.written and path.read_bytes() == before


def test_a_void_time_replaces_no_sound_one():
    row = Row("euler", 1, 1.0, {}, {}, {"p50": 1.0, "stable": True}, {"n": 1, "sha256": "0" * 64})
    found = dataclasses.replace(example(), rows=(row,))
    bad, good = {"p50": 2.0, "stable": False, "void": "busy"}, {"p50": 3.0, "stable": True}
    sampler = row.sampler
    assert retimed(found, {sampler: bad}) == found
    assert retimed(found, {sampler: good}).rows[0].latency == good
    assert retimed(found, {}) == found


def example():
    return result.read(data_folder("leaderboard") / "results" / "quick" / "gaussian-moons" / "cfm.json")
