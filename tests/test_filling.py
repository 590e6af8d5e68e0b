"""What each kind of change measures again, and what it leaves alone: a result is filled in cell by cell."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import fmbench
from fmbench.evaluation import evaluation, filling, flow_scoring, scoring
from fmbench.evaluation.run import run
from fmbench.records import result
from fmbench.records.metric import BUILT_IN
from fmbench.records.result import Estimate
from fmbench.zoo import model as models

TASK = "gaussian-moons"
PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 300
seeds = [0, 1]
samplers = [{ solver = "euler", steps = 2 }, { solver = "euler", steps = 4 }]
metrics = ["wasserstein2", "truncation_gap", "straightness"]
flow = { samples = 32, steps = 4, probes = 8, probe_steps = 4 }
latency = { batches = [1, 16], seconds = 0.0 }
rank = { vector = "wasserstein2", steps = 2 }
"""
METHOD = """
import torch
from torch import nn
from fmbench.methods import VelocityMethod

class Net(nn.Module):
    num_classes = 0
    def forward(self, x, t):
        return 1.0 - x

class Mine(VelocityMethod):
    @classmethod
    def build_net(cls, task, net, conditional):
        return Net()
    def loss(self, batch, generator):
        return batch.x0.mean()
"""
ALL = ["euler-2", "euler-4"]
ROW = ["truncation_gap", "wasserstein2"]
FLOW = ["straightness"]


class Watch:
    """What is drawn, measured and timed of the model (not of real samples) since the last look."""

    def __init__(self, monkeypatch):
        self.drawn, self.measured, self.times = [], [], []
        generate, attempt, latency = models.generate, scoring.attempt, evaluation.Evaluation.latency

        def counted(method, noise, sampler, *rest):
            self.drawn.append((sampler.label, len(noise)))
            return generate(method, noise, sampler, *rest)

        def tried(name, evidences):
            if self.inside:
                self.measured.append(name)
            return attempt(name, evidences)

        def timed(it, sampler):
            self.times.append(sampler.label)
            return latency(it, sampler)

        original = filling.Filling.filled

        def filled(it):
            self.inside = it.run.model is not None
            return original(it)

        self.inside = False
        monkeypatch.setattr(filling.Filling, "filled", filled)
        monkeypatch.setattr(models, "generate", counted)
        monkeypatch.setattr(evaluation.Evaluation, "latency", timed)
        for module in (scoring, flow_scoring):
            monkeypatch.setattr(module, "attempt", tried)

    def look(self):
        """(labels drawn, metrics measured, labels timed), each sorted; and rows drawn in all."""
        seen = (sorted({label for label, _ in self.drawn}), sorted(self.measured), sorted(self.times))
        rows = sum(n for _, n in self.drawn)
        self.drawn, self.measured, self.times = [], [], []
        return seen, rows


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    (tmp_path / "mine.py").write_text(METHOD)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def go(place):
    outcome = run(place / "tiny.toml", [f"{place / 'mine.py'}:Mine"], place / "out")
    assert not outcome.errors
    return outcome.results[1]


NOTHING = (([], [], []), 0)
WHOLE = ((ALL, sorted([*ROW, *ROW, *FLOW]), ALL), 1200)


def test_the_first_run_measures_everything_and_the_second_nothing(place, watch):
    first = go(place)
    assert watch.look() == WHOLE
    assert go(place) == first
    assert watch.look() == NOTHING


def added_metric(place, monkeypatch):
    edit(place / "tiny.toml", '"wasserstein2", "tr', '"wasserstein2", "sliced_wasserstein2", "tr')


def raised_version(place, monkeypatch):
    raised = dataclasses.replace(BUILT_IN["wasserstein2"], version=2)
    monkeypatch.setitem(BUILT_IN, "wasserstein2", raised)


def raised_flow_metric(place, monkeypatch):
    monkeypatch.setitem(BUILT_IN, "straightness", dataclasses.replace(BUILT_IN["straightness"], version=99))


def other_steps(place, monkeypatch):
    edit(place / "tiny.toml", "steps = 4 }]", "steps = 3 }]")


def more_samples(place, monkeypatch):
    edit(place / "tiny.toml", "samples = 300", "samples = 320")


def other_seeds(place, monkeypatch):
    edit(place / "tiny.toml", "seeds = [0, 1]", "seeds = [0, 2]")


def other_solve(place, monkeypatch):
    edit(place / "tiny.toml", "steps = 4, probes", "steps = 6, probes")


def other_sizes(place, monkeypatch):
    edit(place / "tiny.toml", "batches = [1, 16]", "batches = [1, 8]")


def other_words(place, monkeypatch):
    edit(place / "tiny.toml", "for tests", "the same in other words")


def comment(place, monkeypatch):
    edit(place / "mine.py", "return 1.0 - x", "return 1.0 - x  # towards one")
    edit(place / "mine.py", "class Net", "# The net.\nclass Net")


def other_code(place, monkeypatch):
    edit(place / "mine.py", "return 1.0 - x", "return 2.0 - x")


def refactored(place, monkeypatch):
    edit(place / "mine.py", "return 1.0 - x", "towards = 1.0\n        return -x + towards")


def solver_version(place, monkeypatch):
    from fmbench.records import versions

    monkeypatch.setitem(versions.SOLVER_VERSIONS, "euler", 2)


def edited_number(place, monkeypatch):
    path = place / "out/results/tiny/gaussian-moons/mine.json"
    content = json.loads(path.read_text())
    draw = next(name for name, one in content["draws"].items() if one["sampler"][1] == 4)
    cell = content["cells"][draw]["wasserstein2"]
    cell["value"] = cell["ci"][0]
    del cell["details"]["per_seed"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"cells.{draw} was changed after it was measured"):
        result.read(path)


def broken_file_of_one_flow_number(place, monkeypatch):
    path = place / "out/results/tiny/gaussian-moons/mine.json"
    content = json.loads(path.read_text())
    (flow,) = (name for name in content["cells"] if name.startswith("flow:"))
    content["cells"][flow]["straightness"]["n"] += 1
    path.write_text(json.dumps(content))


CHANGES = [
    (added_metric, (ALL, ["sliced_wasserstein2"] * 2, []), 1200),
    (raised_version, (ALL, ["wasserstein2"] * 2, []), 1200),
    (raised_flow_metric, ([], FLOW, []), 0),
    (other_steps, (["euler-3"], ROW, ["euler-3"]), 600),
    (more_samples, (ALL, sorted([*ROW, *ROW, *FLOW]), ALL), 1280),
    (other_seeds, (ALL, sorted([*ROW, *ROW]), ALL), 1200),
    # The first noises of the first seed are enough for the gap to the solve.
    (other_solve, (ALL, sorted([*FLOW, "truncation_gap", "truncation_gap"]), []), 512),
    # Nothing is sampled for a time.
    (other_sizes, ([], [], ALL), 0),
    (other_words, ([], [], []), 0),
    (comment, ([], [], []), 0),
    # A block of 256 from each sampler, and the times, which an edit may change.
    (refactored, (ALL, [], ALL), 512),
    (other_code, (ALL, sorted([*ROW, *ROW, *FLOW]), ALL), 1200),
    (solver_version, (ALL, sorted([*ROW, *ROW]), ALL), 1200),
    (edited_number, (["euler-4"], ROW, ["euler-4"]), 600),
    (broken_file_of_one_flow_number, ([], FLOW, []), 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "seen", "rows"), CHANGES, ids=[change[0].__name__ for change in CHANGES])
def test_what_a_change_measures_again(change, seen, rows, place, watch, monkeypatch):
    before = go(place)
    watch.look()
    change(place, monkeypatch)
    after = go(place)
    assert watch.look() == (seen, rows)
    # As if it had been run once, and finished.
    assert go(place) == after == result.read(place / "out/results/tiny/gaussian-moons/mine.json")
    assert watch.look() == NOTHING
    fresh = run(place / "tiny.toml", [f"{place / 'mine.py'}:Mine"], place / "fresh").results[1]
    assert [row.metrics for row in fresh.rows] == [row.metrics for row in after.rows]
    assert [row.samples for row in fresh.rows] == [row.samples for row in after.rows]
    assert (fresh.flow, fresh.benchmark, fresh.seeds, fresh.retired) == (after.flow, after.benchmark, after.seeds, {})
    # What was replaced by another number stands among the retired.
    keys = {(row.id, n): e.key for row in after.rows for n, e in row.metrics.items()}
    gone = {
        float(f"{e.value:.{filling.DIGITS}g}")
        for row in before.rows
        for n, e in row.metrics.items()
        if keys.get((row.id, n)) != e.key and e.value is not None
    }
    kept = {cell["value"] for table in after.retired.values() for cell in table.values()}
    assert change in (edited_number, refactored) or gone <= kept


class Net(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x, t):
        return self.weight - x


@pytest.mark.slow
def test_other_weights_are_measured_whole(place, watch):
    for weight, seen in ((1.0, WHOLE), (1.0, NOTHING), (2.0, WHOLE)):
        fmbench.evaluate(fmbench.wrap(Net(weight), TASK, "net"), place / "tiny.toml", out=place / "out")
        assert watch.look() == seen


def sealed(path, change):
    """A file whose numbers are other than those measured, but whose seals fit."""
    found = result.read(path)
    return change(found).save(path.parents[2])


@pytest.mark.slow
def test_a_number_that_does_not_come_out_again_is_disputed_and_the_file_stays(place):
    go(place)
    path = place / "out/results/tiny/gaussian-moons/mine.json"

    def other(found):
        first = found.rows[0]
        wrong = dataclasses.replace(first.metrics["wasserstein2"], value=9.0, ci=None, details={})
        row = dataclasses.replace(
            first, metrics={**first.metrics, "wasserstein2": wrong}, samples={**first.samples, "sha256": "0" * 64}
        )
        return dataclasses.replace(found, rows=(row, *found.rows[1:]))

    sealed(path, other)
    before = path.read_bytes()
    edit(place / "tiny.toml", '"wasserstein2", "tr', '"wasserstein2", "sliced_wasserstein2", "tr')
    outcome = run(place / "tiny.toml", [f"{place / 'mine.py'}:Mine"], place / "out")
    (line,) = outcome.errors
    assert "is disputed: wasserstein2 is 9.0 in the file and" in line
    assert "\n" not in line
    assert path.read_bytes() == before


@pytest.mark.slow
def test_samples_that_differ_in_their_last_bits_leave_the_older_numbers(place):
    """Another machine: another hash of the samples, and every number as it was."""
    first = go(place)
    path = place / "out/results/tiny/gaussian-moons/mine.json"

    def other(found):
        rows = []
        for row in found.rows:
            e = row.metrics["wasserstein2"]
            near = dataclasses.replace(e, value=e.value * (1 + 1e-5), details={})
            metrics = {**row.metrics, "wasserstein2": near}
            rows.append(dataclasses.replace(row, metrics=metrics, samples={**row.samples, "sha256": "0" * 64}))
        return dataclasses.replace(found, rows=tuple(rows))

    sealed(path, other)
    edit(place / "tiny.toml", '"wasserstein2", "tr', '"wasserstein2", "sliced_wasserstein2", "tr')
    after = go(place)
    for old, new in zip(first.rows, after.rows, strict=True):
        assert new.samples["sha256"] == "0" * 64
        assert new.metrics["wasserstein2"].value == old.metrics["wasserstein2"].value * (1 + 1e-5)
        assert new.metrics["sliced_wasserstein2"].value > 0


@pytest.mark.slow
def test_only_so_many_numbers_are_retired(place, monkeypatch):
    monkeypatch.setattr(filling, "MOST_RETIRED", 5)
    for steps in (4, 5, 6, 7):
        edit(place / "tiny.toml", "steps = 4 }]" if steps == 4 else f"steps = {steps - 1} }}]", f"steps = {steps} }}]")
        last = go(place)
    assert sum(map(len, last.retired.values())) == 5
    assert result.read(place / "out/results/tiny/gaussian-moons/mine.json") == last


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (Estimate(1.0, None, 5), Estimate(1.0005, None, 5), True),
        (Estimate(1.0, None, 5), Estimate(1.002, None, 5), False),
        (Estimate(1.0, (0.9, 1.1), 5), Estimate(1.01, (0.9, 1.1), 5), True),
        (Estimate(1.0, (0.9, 1.1), 5), Estimate(1.03, (0.9, 1.1), 5), False),
        (Estimate.missing("no"), Estimate.missing("not"), True),
        (Estimate.missing("no"), Estimate(1.0, None, 5), False),
    ],
)
def test_two_measurements_agree_within_rounding_or_a_tenth_of_the_interval(one, other, agree):
    assert filling.near(one, other) is filling.near(other, one) is agree
