"""Models that misbehave in generated ways, seeded: refused or failed in one line, or right to the bit; no other model ever notices.

All are one good field and something wrong with it: what it returns, what it raises, what it does beside, what it depends on, and when. So
whatever is accepted must have the samples of the good field, bit for bit.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fmbench
from fmbench.evaluation.options import Options
from fmbench.evaluation.run import evaluate_one, run
from fmbench.records import protocol
from fmbench.zoo.trial import trial

TASK, SEED = "gaussian-moons", 20_26
PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 40
seeds = [0]
samplers = [{ solver = "euler", steps = 3 }, { solver = "dopri5" }]
metrics = ["sliced_wasserstein2", "straightness", "nll"]
flow = { samples = 8, steps = 2, probes = 4, probe_steps = 2 }
latency = { batches = [1], seconds = 0.0 }
rank = { vector = "sliced_wasserstein2", image = "frechet_distance", steps = 3 }
"""


class Own(BaseException):
    """Derived from nothing that is usually caught."""


class Mute(Exception):
    """Cannot even be printed."""

    def __str__(self):
        raise KeyError("str")


def good(x, t):
    return torch.stack([-x[:, 1], x[:, 0]], dim=1) + 0.5 * t[:, None]


def raises(error):
    def wrong(v, x, t):
        raise error

    return wrong


def change(x):
    x += 1
    return x


def behind(v, x, t):
    np.asarray(x)[:] += 1
    return v


WRONG = {
    "(n, 1)": lambda v, x, t: v[:, :1],
    "(1, d)": lambda v, x, t: v[:1],
    "(d,)": lambda v, x, t: v[0],
    "()": lambda v, x, t: v.sum(),
    "(n,)": lambda v, x, t: v[:, 0],
    "(n, d, 1)": lambda v, x, t: v[..., None],
    "(1, n, d)": lambda v, x, t: v[None],
    "(n + 1, d)": lambda v, x, t: torch.cat([v, v[:1]]),
    "(d, n)": lambda v, x, t: v.repeat(1, 2).T,
    "empty": lambda v, x, t: v[:0],
    "None": lambda v, x, t: None,
    "tuple": lambda v, x, t: (v,),
    "dict": lambda v, x, t: {"sample": v},
    "numpy": lambda v, x, t: v.detach().numpy(),
    "nested list": lambda v, x, t: v.tolist(),
    "number": lambda v, x, t: 0.0,
    "class": lambda v, x, t: torch.Tensor,
    "int64": lambda v, x, t: v.long(),
    "uint8": lambda v, x, t: v.to(torch.uint8),
    "bool": lambda v, x, t: v > 0,
    "complex": lambda v, x, t: v + 0j,
    "sparse": lambda v, x, t: v.to_sparse(),
    "csr": lambda v, x, t: v.to_sparse_csr(),
    "meta": lambda v, x, t: v.to("meta"),
    "nested tensor": lambda v, x, t: torch.nested.nested_tensor(list(v)),
    "x in place": lambda v, x, t: change(x) * 0 + v,
    "t in place": lambda v, x, t: (t.mul_(2), v)[1],
    "x behind": behind,
    "nan": lambda v, x, t: v * float("nan"),
    "inf": lambda v, x, t: v / 0,
    **{f"raises {type(e).__name__}": raises(e) for e in (
        TypeError("a\nb"), KeyError("x"), MemoryError(), StopIteration(), SystemExit(0), GeneratorExit(), RecursionError(), Own("own"),
        Mute(), AssertionError(), NotImplementedError(), ImportError("no module"), OSError(28, "full"), UnicodeDecodeError("a", b"", 0, 1, "b"),
        ValueError("x" * 10**6), Warning("w"), torch.OutOfMemoryError("out of memory"), EOFError(), BrokenPipeError(),
        ExceptionGroup("g", [KeyError()]),
    )},
}  # fmt: skip
DEPENDS = {
    "mean": lambda v, x, t: v + x.mean(0),
    "first": lambda v, x, t: v - 0.01 * x[0],
    "size": lambda v, x, t: v / len(x),
    "position": lambda v, x, t: v + torch.arange(len(x))[:, None],
    "time of the first": lambda v, x, t: v + t[0],
    "mean time": lambda v, x, t: v + t.mean(),
    "rank": lambda v, x, t: v + x.argsort(0),
    "norm of the batch": lambda v, x, t: (x - x.mean(0)) / x.std(0, correction=0).add(1e-6),
    "noise": lambda v, x, t: v + 1e-3 * torch.randn_like(v),
    "noise of NumPy": lambda v, x, t: v + torch.from_numpy(np.random.randn(*v.shape)).float(),  # noqa: NPY002
    "noise of Python": lambda v, x, t: v * random.random(),
    "noise of the system": lambda v, x, t: v + os.urandom(1)[0],
    "seeded noise": lambda v, x, t: v + torch.randn(v.shape, generator=torch.Generator().manual_seed(1)),
    "reseeded noise": lambda v, x, t: (torch.manual_seed(0), v + torch.randn(v.shape))[1],
}
BESIDE = {
    "nothing": lambda: None,
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "seed": lambda: torch.manual_seed(0),
    "seeds": lambda: (np.random.seed(0), random.seed(0)),  # noqa: NPY002
    "threads": lambda: torch.set_num_threads(3),
    "gradients": lambda: torch.set_grad_enabled(True),
    "folder": lambda: os.chdir("/"),
    "environment": lambda: os.environ.clear(),
    "path": lambda: sys.path.clear(),
    "errors": lambda: np.seterr(all="raise"),
    "warnings": lambda: warnings.simplefilter("error"),
    "streams": lambda: setattr(sys, "stderr", None),
    "denormals": lambda: torch.set_flush_denormal(True),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "words": lambda: print(end=""),
}
RIGHT = {
    "as it is": lambda v, x, t: v,
    "double": lambda v, x, t: v.double(),
    "graph": lambda v, x, t: torch.enable_grad()(lambda: v * torch.ones(2, requires_grad=True))(),
    "transposed": lambda v, x, t: v.T.contiguous().T,
    "parameter": lambda v, x, t: nn.Parameter(v, requires_grad=False),
    "copy": lambda v, x, t: v.clone(),
}
LATE = {"always": lambda x, t: True, "late": lambda x, t: bool((t > 0.6).any()), "large": lambda x, t: len(x) > 16,
        "end": lambda x, t: bool((t == 1).any())}  # fmt: skip


class Field(nn.Module):
    """The good field, what is wrong with it and when, and what it does beside."""

    def __init__(self, wrong, when, beside):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.wrong, self.when, self.beside = wrong, when, beside

    def forward(self, x, t):
        self.beside()
        v = good(x, t) * self.weight
        return self.wrong(v, x, t) if self.when(x, t) else v


def models(count):
    """(name, field, whether it must be refused): every kind once, then combinations."""
    chance = random.Random(SEED)
    kinds = [(f"wrong: {k}", w, True) for k, w in WRONG.items()]
    kinds += [(f"depends: {k}", w, True) for k, w in DEPENDS.items()]
    kinds += [(f"right: {k}", w, False) for k, w in RIGHT.items()]
    plain = [(kind, "always", beside) for kind, beside in zip(kinds, itertools.cycle(BESIDE))]
    plain += [(kinds[-len(RIGHT)], "always", beside) for beside in BESIDE]
    late = [kind for kind in kinds if not kind[0].startswith("depends")]
    mixed = ((chance.choice(late), chance.choice(list(LATE)), chance.choice(list(BESIDE))) for _ in itertools.count())
    for (name, wrong, bad), when, beside in itertools.islice(itertools.chain(plain, mixed), count):
        field = Field(wrong, LATE[when], BESIDE[beside])
        as_function = chance.random() < 0.3
        label = f"{name}, {when}, {beside}{', function' if as_function else ''}"
        yield label, (lambda x, t, field=field: field(x, t)) if as_function else field, bad and when == "always"


def state():
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().sum().item(),
        np.random.get_state()[1].tolist(), random.getstate(), os.getcwd(), dict(os.environ), list(sys.path), np.geterr(),  # noqa: NPY002
        sys.stderr, list(warnings.filters), float(torch.tensor(1e-40) * 1), torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


def facts(result):
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    for key in ("seconds", "phases", "created", "peak_memory_bytes", "cost", "environment"):
        del content[key]
    for row in content["rows"]:
        del row["latency"]
        row["metrics"].get("truncation_gap", {}).pop("key", None)  # it names the flow that it is measured against
    return content


def require_line(error):
    line = str(error)
    assert isinstance(error, ValueError)
    assert line.isprintable()
    assert 0 < len(line) < 1200


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(PROTOCOL)
    return path


def wrap(field):
    return fmbench.wrap(field, TASK, "m")


@pytest.mark.slow
def test_three_hundred_models_pass_the_trial_or_are_refused_in_one_line():
    before, refused, passed = state(), 0, 0
    wanted = wrap(good).sample(16, steps=2)
    for name, field, bad in models(330):
        model = wrap(field)
        try:
            trial(model)
        except ValueError as error:
            require_line(error)
            refused += 1
            right = not name.startswith("right")
        else:
            passed += 1
            right = not bad and (not name.startswith("right") or torch.equal(model.sample(16, steps=2), wanted))
        assert right, name
        assert state() == before, name
    assert refused > 100
    assert passed > 50


@pytest.mark.slow
def test_whatever_is_accepted_has_the_samples_of_the_good_field(tiny):
    """Also of what goes wrong only after the trial: in larger batches, or late in a trajectory."""
    spec, options = protocol.read(tiny), Options(device="cpu")
    right = facts(evaluate_one(spec, wrap(good).task, wrap(good), options, None))
    before = state()
    late = [chosen for chosen in models(330) if ", always" not in chosen[0]]
    seen = {"refused": 0, "failed": 0, "right": 0}
    for name, field, _ in late[:60]:
        model = wrap(field)
        try:
            result = facts(evaluate_one(spec, model.task, model, options, None))
        except ValueError as error:
            require_line(error)
            seen["refused"] += 1
        else:
            for row, other in zip(result["rows"], right["rows"], strict=True):
                seen["failed" if row["failed"] else "right"] += 1
                assert row["failed"] or (row["samples"], row["metrics"]) == (other["samples"], other["metrics"]), name
            for metric, estimate in result["flow"].items():
                assert estimate["value"] is None or estimate == right["flow"][metric], (name, metric)
        assert state() == before, name
    assert min(seen.values()) > 5, seen


METHOD = """
import os, random, sys, warnings
import numpy as np
import torch
from torch import nn
from fmbench.methods import {base}
{top}

class Net(nn.Module):
    def forward(self, x, t, labels=None):
        {forward}
        return torch.stack([-x[:, 1], x[:, 0]], dim=1) + 0.5 * t[:, None]

class {name}({base}):
    @classmethod
    def build_net(cls, task, net, conditional):
        {build}
        return Net()
    def loss(self, batch, generator):
        raise ValueError("nothing to train")
    {sample}
"""
LINES = (
    "pass", "raise KeyError('x')", "sys.exit(0)", "raise BaseException", "os.chdir('/')", "torch.set_default_dtype(torch.float64)",
    "os.environ.clear()", "sys.path.clear()", "torch.manual_seed(0)", "sys.stdout = None", "raise RecursionError",
    "warnings.simplefilter('error')",
    "np.seterr(all='raise')", "raise MemoryError", "import not_there", "torch.set_num_threads(2)",
)  # fmt: skip
SAMPLES = (
    "pass",
    "sample = lambda self, noise, sampler, labels=None: noise[:, :1]",
    "sample = lambda self, noise, sampler, labels=None: noise + torch.randn_like(noise)",
    "sample = lambda self, noise, sampler, labels=None: noise.numpy()",
    "sample = lambda self, noise, sampler, labels=None: noise.add_(1)",
    "sample = lambda self, noise, sampler, labels=None: noise - noise.mean(0)",
    "sample = lambda self, noise, sampler, labels=None: 2 * noise",
)


@pytest.mark.slow
def test_files_of_methods_beside_a_good_entry(tiny, tmp_path, monkeypatch):
    """The entry comes last, after all that they did; nothing lies anywhere but in the folder of the run."""
    chance, inside = random.Random(SEED), tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    (alone,) = run(tiny, [f"{TASK}/cfm"], tmp_path / "alone").results[1:]
    specs = []
    for index in range(40):
        name, base = f"Method{index}", chance.choice(["VelocityMethod", "VelocityMethod", "Method"])
        sample = chance.choice(SAMPLES[1:] if base == "Method" else SAMPLES)
        places = dict.fromkeys(("top", "forward", "build"), "pass")
        places[chance.choice(list(places))] = chance.choice(LINES)
        Path(f"{name}.py".lower()).write_text(METHOD.format(base=base, name=name, sample=sample, **places))
        specs.append(f"{name.lower()}.py:{name}")
    Path("half.py").write_text("class Half(")
    before = state(), sorted(str(p) for p in tmp_path.rglob("*") if "__pycache__" not in str(p))
    outcome = run(tiny, [*specs, "half.py:Half", f"{TASK}/cfm"], Path("../out"), options=Options(device="cpu"))
    after = sorted(
        str(p) for p in tmp_path.rglob("*") if "__pycache__" not in str(p) and not p.is_relative_to(tmp_path / "out")
    )
    assert (state(), after) == before
    assert facts(outcome.results[-1]) == facts(alone)
    assert len(outcome.errors) + len(outcome.results) == len(specs) + 3
    assert len(outcome.errors) > 10
    for line in outcome.errors:
        assert line.isprintable()
        assert line.split(": ")[0] in {*specs, "half.py:Half"}
    for result in outcome.results[1:-1]:
        assert (tmp_path / "out/results/tiny" / f"{result.model['name']}.json").is_file()
