"""Latency belongs to an architecture and a sampler: what shares one, what does not, and what is kept of it."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import fmbench
from fmbench.evaluation import timing
from fmbench.evaluation.acceleration import Acceleration
from fmbench.evaluation.identity import identified
from fmbench.evaluation.timing import Book, Wish, timing_key
from fmbench.records.sampler import Sampler

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
    # Another process finds them in the file.
    assert Book(tmp_path).fill(wishes[:1], SETTINGS, "cpu") == [json.loads(json.dumps(one))]
    assert measured == [2, 0]
    again = Book(tmp_path).fill(wishes[:1], SETTINGS, "cpu", again=True)
    assert measured == [2, 0, 1] and Book(tmp_path).known[wishes[0].key] == json.loads(json.dumps(again[0]))


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
