"""A run of several models, some of which fail in every way there is: the others are evaluated, saved and shown."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import fmbench
from fmbench import cli
from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.evaluation import describe
from fmbench.evaluation.options import Options
from fmbench.evaluation.plan import plan
from fmbench.evaluation.run import evaluate, run
from fmbench.evaluation.scoring import attempt
from fmbench.execution.foreign import ForeignError, foreign, said
from fmbench.metrics.evidence import of_samples
from fmbench.records import protocol, result
from fmbench.records.metric import METRICS
from fmbench.records.result import Estimate

ENTRY = "gaussian-moons/cfm"
PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 300
seeds = [0]
samplers = [{ solver = "euler", steps = 2 }, { solver = "heun", steps = 3 }]
metrics = ["wasserstein2", "truncation_gap", "straightness"]
flow = { samples = 32, steps = 4, probes = 8, probe_steps = 4 }
latency = { batches = [1, 16], seconds = 0.0 }
rank = { vector = "wasserstein2", image = "frechet_distance", steps = 2 }
"""
METHOD = """
import sys
import torch
from torch import nn
from fmbench.methods import VelocityMethod
{top}

class Bad(BaseException):
    pass

class Net(nn.Module):
    num_classes = 0
    def forward(self, x, t):
        {forward}
        return -x

class {name}(VelocityMethod):
    def __init__(self, net):
        super().__init__(net)
    @classmethod
    def build_net(cls, task, net, conditional):
        {build}
        return Net()
    def loss(self, batch, generator):
        return batch.x0.mean()
"""
RAISES = {
    "type": "raise TypeError('no')",
    "key": "raise KeyError('no')",
    "memory": "raise MemoryError",
    "stop": "raise StopIteration",
    "exit": "sys.exit(0)",
    "generator": "raise GeneratorExit",
    "recursion": "raise RecursionError('deep')",
    "lines": "raise ValueError('one' + chr(10) + 'two')",
    "long": "raise ValueError('x' * 100000)",
    "control": "raise ValueError(chr(27) + '[31mred')",
}


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(PROTOCOL)
    return path


def method(folder, name, top="", forward="", build=""):
    path = folder / f"{name.lower()}.py"
    path.write_text(METHOD.format(name=name, top=top, forward=forward or "pass", build=build or "pass"))
    return f"{path}:{name}"


def facts(result):
    content = json.loads(json.dumps(result.to_json()))
    for key in ("seconds", "phases", "created", "peak_memory_bytes", "cost", "environment"):
        del content[key]
    for row in content["rows"]:
        del row["latency"]
    return content


def test_any_exception_is_one_line_with_the_name_and_no_other_model_is_lost(tiny, tmp_path):
    bad = [method(tmp_path, f"F{name}", forward=words) for name, words in RAISES.items()]
    bad += [method(tmp_path, f"T{name}", top=words) for name, words in RAISES.items()]
    bad += [method(tmp_path, f"B{name}", build=words) for name, words in RAISES.items()]
    bad += [method(tmp_path, "Custom", forward="raise Bad('own')"), method(tmp_path, "Syntax", top="def")]
    alone = run(tiny, [ENTRY], tmp_path / "alone").results
    outcome = run(tiny, [*bad[:16], ENTRY, *bad[16:]], tmp_path / "out")
    assert [facts(r) for r in outcome.results] == [facts(r) for r in alone]
    assert len(outcome.errors) == len(bad)
    for spec, line in zip(bad, outcome.errors, strict=True):
        assert line.startswith(f"{spec}: ")
        assert "\n" not in line
        assert "\x1b" not in line
        assert len(line) < 1000
    assert (tmp_path / "out/results/tiny/gaussian-moons/cfm.json").is_file()


def test_an_interrupt_alone_stops(tiny, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tiny, [method(tmp_path, "Stopped", forward="raise KeyboardInterrupt"), ENTRY], tmp_path / "out")


@pytest.mark.slow
def test_the_command_says_who_failed_builds_the_tables_and_exits_1(tiny, tmp_path, capsys):
    bad = method(tmp_path, "Leaving", forward="sys.exit(0)")
    words = ["run", str(tiny), "-m", bad, ENTRY, "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert line.startswith(f"fmbench: {bad}: ")
    assert "SystemExit" in line
    assert "cfm" in said.out
    assert (tmp_path / "out" / "index.html").is_file()
    assert cli.main([*words, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_damaged_folder_is_one_line_and_the_others_go_on(tiny, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "recipe.toml").write_text("task = ")
    outcome = run(tiny, [str(folder), ENTRY], tmp_path / "out")
    (line,) = outcome.errors
    assert "damaged" in line
    assert [r.entry for r in outcome.results] == ["data", "cfm"]


def test_latency_and_cost_that_cannot_be_measured_lose_no_row(tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyError("no clock")

    monkeypatch.setattr("fmbench.evaluation.timing.one_batch", fail)
    monkeypatch.setattr("fmbench.evaluation.cost.costs.flops_per_call", fail)
    _, found = fmbench.evaluate(ENTRY, tiny, out=tmp_path / "out")
    assert result.read(tmp_path / "out/results/tiny/gaussian-moons/cfm.json") == found
    assert fmbench.evaluate(ENTRY, tiny, out=tmp_path / "out")[1] == found
    assert found.rows[0].latency == {"failed": "KeyError: 'no clock'"}
    assert found.rows[0].metrics["wasserstein2"].value > 0
    assert found.cost["reason"] == "KeyError: 'no clock'"
    assert found.cost["parameters"] == found.model["parameters"]
    assert "flops_per_sample" not in found.cost
    assert found.cost["memory"]["source"]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda: 3.0, "returned float, not an Estimate"),
        (lambda: Estimate(float("nan"), n=1), "must be a finite number"),
        (lambda: Estimate(-1.0, n=1), "-1"),
        (lambda: Estimate(None), "reason must say why"),
        (lambda: Estimate(1.0, n=1, details={"x": object()}), "must be plain data"),
        (lambda: sys.exit(1), "SystemExit"),
        (lambda: {}["x"], "KeyError"),
    ],
)
def test_a_metric_that_misbehaves_is_null_with_the_reason(returned, words, monkeypatch):
    changed = dataclasses.replace(METRICS["wasserstein2"], measure=lambda _: returned())
    monkeypatch.setattr("fmbench.evaluation.scoring.METRICS", {"wasserstein2": changed})
    found = attempt("wasserstein2", [of_samples(np.zeros((2, 2)), np.ones((2, 2)))])
    assert found.value is None
    assert found.reason.startswith("could not be computed: ")
    assert words in found.reason


# -- options ----------------------------------------------------------------------------------------------------------

FIELDS = {field.name: field.default for field in dataclasses.fields(Options)}


def test_the_keywords_of_evaluate_and_the_flags_of_run_are_the_options():
    keywords = {
        name: p.default for name, p in inspect.signature(evaluate).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    assert keywords == {"out": None, **FIELDS}
    flags = vars(cli.parser().parse_args(["run", "quick"]))
    assert {name: flags[name] for name in FIELDS} == FIELDS
    assert set(flags) - set(FIELDS) == {"command", "json", "debug", "call", "benchmark", "model", "out", "profile"}


def test_every_option_reaches_the_run_from_both_sides(tiny, tmp_path, monkeypatch):
    other = {"batch_size": 7, "limit": 20, "seed_set": 2, "dtype": "bfloat16", "overwrite": True, "device": "cpu"}
    seen = []

    def noted(spec, task, model, options, *rest, **more):
        seen.append(options)
        raise ValueError("enough")

    monkeypatch.setattr("fmbench.evaluation.run.evaluate_one", noted)
    with pytest.raises(ValueError, match="enough"):
        evaluate(ENTRY, tiny, **other)
    flags = [
        word
        for name, value in other.items()
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]
    monkeypatch.setattr("fmbench.report.build.build_leaderboard", lambda _: [])
    run(tiny, [ENTRY], tmp_path, options=Options(**other))
    assert set(seen) == {Options(**other)}
    args = cli.parser().parse_args(["run", str(tiny), *flags])
    assert {name: getattr(args, name) for name in other} == other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"batch_size": 2.5}, "whole number"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"limit": True}, "whole number"),
        ({"limit": 301}, "limit 301 is more than the 300 samples"),
        ({"seed_set": -1}, "at least 0"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"compile": "fast"}, "unknown compile mode"),
        ({"channels_last": True}, "tiny has none"),
        ({"overwrite": 1}, "True or False"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available here"),
        ({"device": "tpu"}, "available: cpu"),
        ({"device": None}, "device must be a name"),
    ],
    ids=str,
)
def test_options_without_effect_or_sense_are_refused_before_any_work(options, words, tiny, tmp_path):
    for call in (
        lambda: evaluate(ENTRY, tiny, out=tmp_path / "out", **options),
        lambda: run(tiny, [ENTRY], tmp_path / "out", options=Options(**options)),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert not (tmp_path / "out").exists()


def test_why_a_result_is_not_ranked_is_said_for_every_reason():
    assert Options().unranked_because == ()
    assert Options(overwrite=True, batch_size=3, device="cpu").ranked
    for options, words in (
        (Options(limit=5), "--limit"),
        (Options(seed_set=2), "shifted by 2000"),
        (Options(dtype="bfloat16"), "bfloat16"),
        (Options(compile="default"), "compiled"),
        (Options(channels_last=True), "channels last"),
    ):
        (reason,) = options.unranked_because
        assert words in reason
        assert not options.ranked
    assert len(Options(limit=5, seed_set=2, dtype="bfloat16").unranked_because) == 3


@pytest.mark.parametrize("words", [["run", "quick", "--seed", "3"], ["run", "quick", "--over"], ["sample", ENTRY, "--step", "3"],
                                   ["leaderboard", "build", "--read", "x"], ["train", "--dev", "cpu"]])  # fmt: skip
def test_no_option_is_guessed_from_a_prefix(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_models_named_twice_or_alike_are_refused(tiny, tmp_path):
    spec = protocol.read(tiny)
    with pytest.raises(ValueError, match="is named twice"):
        plan(spec, [ENTRY, ENTRY])
    import shutil

    from fmbench.zoo import catalogue

    shutil.copytree(catalogue.find(ENTRY).folder, tmp_path / "cfm")
    with pytest.raises(ValueError, match="are both gaussian-moons/cfm; rename one"):
        plan(spec, [ENTRY, str(tmp_path / "cfm")])


@pytest.mark.parametrize("name", ["data", "Data", "..", "a/../..", "oracle", "x" * 200])
def test_no_model_is_filed_under_a_name_of_others(name, tiny, tmp_path):
    model = dataclasses.replace(fmbench.load(ENTRY), name=f"gaussian-moons/{name}")
    with pytest.raises(ValueError, match=r"name|call"):
        evaluate(model, tiny, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_oracle_keeps_its_name(tiny, tmp_path):
    oracle = fmbench.load("gaussian-moons/oracle")
    assert describe(oracle, oracle.name)["division"] == "anchor"
    assert evaluate(oracle, tiny, out=tmp_path)[1].entry == "oracle"


def test_devices():
    assert resolve_device("auto") in ("cpu", "cuda")
    assert resolve_device("cpu") == "cpu"
    for name in ("", "gpu", "cuda:-1", "cuda:x", "cudax", "cuda:99"):
        with pytest.raises(ValueError, match="is not available here"):
            resolve_device(name)


# -- errors as one line -----------------------------------------------------------------------------------------------


class Mute(BaseException):
    def __str__(self):
        raise RuntimeError


def test_errors_are_one_printable_line():
    def fail(error):
        with foreign("m"):
            raise error

    for error in (Mute(), ValueError("a\n\nb"), KeyError(), Exception("\x1b[31m"), ValueError("x" * 10_000)):
        with pytest.raises(ForeignError) as caught:
            fail(error)
        line = str(caught.value)
        assert line.startswith("m: ")
        assert line.isprintable()
        assert len(line) < 600
        assert caught.value.__cause__ is error


def test_refusals_of_fmbench_keep_their_words_and_others_say_their_type():
    with pytest.raises(ValueError, match="device 'gpu'") as caught:
        resolve_device("gpu")
    assert said(caught.value).startswith("device 'gpu'")
    assert said(ValueError("x")) == "ValueError: x"


@pytest.mark.slow
def test_a_model_that_writes_elsewhere_saves_where_it_should(tiny, tmp_path):
    """A relative --out is that of the caller, wherever a model goes."""
    bad = method(tmp_path, "Moving", forward="import os; os.chdir('/')")
    code = (
        "import sys; from fmbench.cli import main\n"
        f"sys.exit(main(['run', 'tiny.toml', '-m', {bad!r}, '--out', 'here', '--json', '--device', 'cpu']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here/results/tiny/gaussian-moons/moving.json").is_file()
