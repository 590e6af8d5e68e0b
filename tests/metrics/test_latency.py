"""Latency on a clock of our own: every number is known, nothing depends on how fast the machine is."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fmbench.evaluation.cost import latency
from fmbench.evaluation.cost.latency import (
    Bounds,
    Job,
    best_throughput,
    conditions,
    measure_all,
    measure_latency,
    median_interval,
    quantiles,
    sweep,
)
from fmbench.evaluation.cost.load import Load, system_load

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


def quiet():
    """A machine on which nothing else runs."""
    return Load(time.monotonic(), 0.0, 0.0)


def measure(fake, **options):
    settings = {"batch": 8, "seconds": 1e9, "least": 5, "most": 30, "load": quiet, **options}
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
    assert row["stable"] and row["void"] is None


def test_quantiles_are_numpys_over_the_repeats():
    rng = np.random.default_rng(0)
    times = rng.exponential(size=400)
    row = measure(Fake(*np.ones(10), *times, then=1.0), least=400, most=400)
    expected = np.percentile(times, [50, 95, 99, 25, 75])
    # Records have five digits.
    assert [row["p50"], row["p95"], row["p99"]] == pytest.approx(expected[:3], rel=1e-4)
    assert row["iqr"] == pytest.approx(expected[4] - expected[3], rel=1e-4)


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

    jobs = [Job(lambda batch=batch: make(batch), CPU, batch) for batch in batches]
    return sweep(jobs, Bounds(5.0), clock=fake.clock, load=quiet)


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

    def jobs(batches):
        return [Job(lambda batch=batch: broken(batch), CPU, batch) for batch in batches]

    with pytest.raises(RuntimeError, match="shapes"):
        sweep(jobs([1]), Bounds(0.0))
    for batches in ([], [4, 2], [2, 2]):
        with pytest.raises(ValueError, match="increasing"):
            sweep(jobs(batches), Bounds(0.0))
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


def test_jobs_take_turns_so_that_a_slow_spell_meets_them_all():
    """The machine is three times slower from some moment on: each of two equal jobs spends the same share of its calls there."""
    now, order = [0.0], []

    def job(name):
        def sample():
            order.append(name)
            now[0] += 1.0 if now[0] < 130 else 3.0

        return Job(lambda: sample, CPU, 1)

    bounds = Bounds(20.0, least_warmup=10, most_warmup=10, least=50, most=50)
    one, other = measure_all([job("a"), job("b")], bounds, clock=lambda: now[0], load=quiet)
    assert one["p50"] == other["p50"]
    # Ten warm-up calls each; then never more than a fifth of the calls of one before the other has its turn.
    turns = [len(list(run)) for _, run in itertools.groupby(order)]
    assert turns == [10, 10] + [10] * 10


def test_the_interval_of_the_median_is_students_over_rounds():
    rounds = [[1.0, 1.1, 1.2], [1.3], [0.9, 0.9], [1.0], [1.2]]
    low, high = median_interval(rounds)
    from scipy.stats import t

    medians = np.array([1.1, 1.3, 0.9, 1.0, 1.2])
    expected = t.interval(0.95, 4, medians.mean(), medians.std(ddof=1) / 5**0.5)
    assert (low, high) == pytest.approx(expected)
    assert median_interval([[2.0, 3.0]]) == (2.0, 3.0)
    assert median_interval([[1.0], [1.0], []]) == (1.0, 1.0)


def test_times_that_do_not_settle_are_void_and_say_so():
    # From round to round slower by half.
    row = measure(Fake(*np.ones(10), *np.repeat(1.5 ** np.arange(5), 6), then=1.0), least=30, most=30, most_warmup=10)
    assert not row["stable"] and row["void"].startswith("not stable: the median is")
    assert row["low"] < row["p50"] < row["high"]


@pytest.mark.parametrize(("busy", "others", "reason"), [(2.0, 0.0, False), (5.0, 0.075, False), (8.0, 0.15, True)])
def test_times_on_a_busy_machine_are_void_with_the_share_of_others(busy, others, reason):
    """40 CPU seconds pass, of which this process uses 2 and all together ``busy``."""
    readings = iter([Load(100.0, 50.0, 7.0), Load(140.0, 50.0 + busy, 9.0)])
    row = measure(Fake(then=1.0), load=lambda: next(readings))
    assert row["others"] == others
    assert (row["void"] == "other processes took 15% of the machine meanwhile") == reason == (not row["stable"])


def test_a_job_that_raises_in_a_later_round_leaves_the_others():
    calls = [0]

    def sample():
        calls[0] += 1
        if calls[0] == 8:
            raise RuntimeError("tired")

    bounds = Bounds(0.0, least_warmup=3, most_warmup=3, least=20, most=20)
    bad, good = measure_all([Job(lambda: sample, CPU, 1), Job(lambda: lambda: None, CPU, 1)], bounds)
    assert str(bad["error"]) == "tired" and bad["error"].__traceback__ is None
    assert good["repeats"] == 20


def test_cpu_seconds_are_those_of_this_process_whatever_the_wall_clock_says():
    """A call that sleeps takes wall time only; one that computes takes as much of both."""
    bounds = Bounds(0.0, least_warmup=1, most_warmup=1, least=5, most=5)

    def compute():
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass

    sleeping, computing = measure_all(
        [Job(lambda: lambda: time.sleep(0.02), CPU, 2), Job(lambda: compute, CPU, 2)], bounds
    )
    assert sleeping["p50"] > 0.02 > 20 * sleeping["cpu"]
    assert computing["cpu"] == pytest.approx(0.01, rel=0.1)


def test_the_load_of_the_system_is_read_from_its_clocks(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 800 40 5 5 10 0 0\ncpu0 1 2 3\n")
    ticks = 100
    found = system_load(stat)
    # Idle 800 and waiting 40 are not busy; stolen time (10) is.
    assert (found.total * ticks, found.busy * ticks) == pytest.approx((1010, 170))
    for text in ("", "cpu 1 2", "cpu a b c d e f g h", "intr 1 2 3 4 5 6 7 8"):
        stat.write_text(text)
        assert system_load(stat).total is None
    unknown = system_load(tmp_path / "none")
    assert unknown.others(found) is None and found.others(unknown) is None
