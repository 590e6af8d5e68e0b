"""Latency on a clock of our own: every number is known, nothing depends on how fast the machine is."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fmbench.evaluation.cost import latency
from fmbench.evaluation.cost.latency import best_throughput, conditions, measure_latency, quantiles, sweep

CPU = torch.device("cpu")


class Fake:
    """A clock that only moves while a sample is made, by the next of the given durations (the last for ever)."""

    def __init__(self, *durations, then):
        self.now, self.calls = 1000.0, 0
        self.durations = itertools.chain(durations, itertools.repeat(then))

    def clock(self):
        return self.now

    def sample(self):
        self.calls += 1
        self.now += next(self.durations)


def measure(fake, **options):
    settings = {"batch": 8, "seconds": 1e9, "least": 5, "most": 30, **options}
    return measure_latency(fake.sample, CPU, clock=fake.clock, **settings)


def test_constant_time_is_stable_at_once_and_exact():
    row = measure(fake := Fake(then=0.25))
    assert (row["warmup"], row["stable"], row["repeats"]) == (10, True, 30)
    assert row["p50"] == row["p95"] == row["first_call"] == 0.25
    assert (row["iqr"], row["throughput"], row["batch"]) == (0.0, 32.0, 8)
    assert fake.calls == 40


def test_compilation_and_falling_times_stay_out_of_the_measurement():
    slow = [60.0, *(2.0 * 0.8**k for k in range(20))]
    row = measure(Fake(*slow, then=0.02))
    assert row["first_call"] == 60.0
    assert row["stable"] and row["warmup"] > len(slow) and row["p95"] == pytest.approx(0.02)


def test_a_time_that_never_settles_ends_the_warm_up_at_its_bound():
    # Slower by 2 % at every call: the medians of neighbouring windows of five differ by 10 %.
    row = measure(Fake(*(1.02**k for k in range(400)), then=1.0), most_warmup=40)
    assert (row["warmup"], row["stable"]) == (40, False)
    # By 0.9 % they differ by 4.6 %, within the 5 % that count as stable.
    assert measure(Fake(*(1.009**k for k in range(400)), then=1.0))["warmup"] == 10


@pytest.mark.parametrize(("seconds", "warmup", "repeats"), [(0.0, 3, 5), (7.0, 7, 7), (12.0, 10, 12), (100.0, 10, 30)])
def test_seconds_bound_warm_up_and_measurement_between_least_and_most(seconds, warmup, repeats):
    row = measure(Fake(then=1.0), seconds=seconds)
    assert (row["warmup"], row["repeats"]) == (warmup, repeats)
    assert row["stable"] == (warmup == 10)


def test_quantiles_are_numpys_over_the_repeats():
    rng = np.random.default_rng(0)
    times = rng.exponential(size=400)
    row = measure(Fake(*np.ones(10), *times, then=1.0), least=400, most=400)
    expected = np.percentile(times, [50, 95, 99, 25, 75])
    assert [row["p50"], row["p95"], row["p99"]] == pytest.approx(expected[:3])
    assert row["iqr"] == pytest.approx(expected[4] - expected[3])


@pytest.mark.parametrize(
    ("n", "missing"), [(2, {"p95", "p99", "iqr"}), (19, {"p95", "p99"}), (20, {"p99"}), (99, {"p99"}), (100, set())]
)
def test_a_quantile_needs_repeats_beyond_it(n, missing):
    found = quantiles(np.arange(float(n)))
    assert {name for name, value in found.items() if value is None} == missing
    assert all(value < n - 1 for value in found.values() if value is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"seconds": -1.0}, "seconds must be 0 or more and finite, got -1.0"),
        ({"seconds": float("inf")}, "got inf"),
        ({"least": 1}, "repeats need 2 <= least <= most, got least 1"),
        ({"least": 9, "most": 8}, "repeats need 2 <= least <= most"),
        ({"least_warmup": 0}, "warm-ups need 1 <= least <= most, got least 0"),
    ],
)
def test_impossible_bounds_are_refused(options, message):
    fake = Fake(then=1.0)
    with pytest.raises(ValueError, match=message):
        measure(fake, **options)
    assert fake.calls == 0


def test_every_reading_of_the_clock_waits_for_the_device(monkeypatch):
    """Work is queued by the call and done by the synchronisation, as on a GPU; all of it must be seen, and nothing of before."""
    fake, queue = Fake(then=0.0), [500.0]

    def synchronise(device):
        fake.now += sum(queue)
        queue.clear()

    monkeypatch.setattr(latency, "synchronise", synchronise)
    row = measure_latency(lambda: queue.append(0.125), CPU, 1, 2.0, clock=fake.clock, least=5, most=6)
    assert row["first_call"] == row["p50"] == 0.125 and row["repeats"] == 6


def costs(batch):
    """A device with a fixed cost and one per sample, out of memory above 64."""
    if batch > 64:
        torch.empty(2**58, dtype=torch.uint8)
    return 1.0 + 0.01 * batch


def run_sweep(batches, cost):
    fake = Fake(then=0.0)

    def make(batch):
        def sample():
            fake.now += cost(batch)

        return sample

    return sweep(make, CPU, batches, 5.0, clock=fake.clock)


def test_sweep_follows_the_cost_model_and_keeps_what_fitted_in_memory():
    rows = run_sweep([1, 16, 64, 128, 256], costs)
    assert [row["batch"] for row in rows] == [1, 16, 64, 128]
    assert [row["throughput"] for row in rows[:3]] == pytest.approx([1 / 1.01, 16 / 1.16, 64 / 1.64])
    assert rows[3].keys() == {"batch", "failed"} and rows[3]["failed"].startswith("out of memory: ")
    assert best_throughput(rows) == {"batch": 64, "throughput": rows[2]["throughput"]}


def test_best_throughput_is_not_the_largest_batch_and_ties_go_to_the_smaller():
    rows = run_sweep([1, 2, 4, 8], lambda batch: batch**2 / 4 + 1)
    assert best_throughput(rows)["batch"] == 2
    assert best_throughput(run_sweep([2, 4], lambda batch: batch / 2))["batch"] == 2


def test_sweep_refuses_disorder_hides_no_error_and_best_needs_a_row():
    def broken(batch):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        sweep(broken, CPU, [1], 0.0)
    for batches in ([], [4, 2], [2, 2]):
        with pytest.raises(ValueError, match="increasing"):
            sweep(broken, CPU, batches, 0.0)
    with pytest.raises(ValueError, match="none of 1 batch sizes"):
        best_throughput(run_sweep([65], costs))


def test_conditions_tell_dtype_compilation_threads_and_clock():
    net = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
    found = conditions(CPU, net)
    assert found["threads"] == torch.get_num_threads()
    assert (found["dtype"], found["compile"], found["tf32"]) == ("float32", "none", None)
    assert conditions(CPU, nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2)))["dtype"] == "bfloat16+float32"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conditions(CPU, net)["dtype"] == "autocast bfloat16"
    # What torch.compile leaves on a module it was called on in place; the real thing is in test_flops.
    net[0]._compiled_call_impl = net[0]._call_impl
    assert conditions(CPU, net)["compile"] == "torch.compile"
    assert conditions(CPU)["dtype"] == "float32"


def test_tf32_names_what_may_use_it(monkeypatch):
    matmul, convolution = SimpleNamespace(fp32_precision="ieee"), SimpleNamespace(fp32_precision="tf32")
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends.cudnn, "conv", convolution)
    assert latency._tf32() == "convolution"
    matmul.fp32_precision = "tf32"
    assert latency._tf32() == "matmul and convolution"
    matmul.fp32_precision = convolution.fp32_precision = "none"
    assert latency._tf32() == "off"


def test_processor_clock_is_the_mean_over_cores_and_none_when_unknown(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: A\ncpu MHz\t\t: 1000.5\n\nmodel name\t: A\ncpu MHz\t\t: 2000.5\n")
    assert latency.processor_clock(tmp_path / "cpuinfo") == 1500.5
    assert latency.processor_clock(tmp_path / "none") is None
    assert latency.gpu_clock(CPU) is None


def test_the_row_names_the_clock_that_was_used():
    implementation = time.get_clock_info("perf_counter").implementation
    assert measure_latency(lambda: None, CPU, 1, 0.0)["clock"] == implementation
    assert measure(Fake(then=1.0))["clock"] == "clock"
    assert latency.clock_name(time.perf_counter, torch.device("cuda")) == f"{implementation}, device synchronised"
