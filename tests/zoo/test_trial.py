"""What every model must satisfy before it is scored, and what is refused by name."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import fmbench
from fmbench.execution.checked import checked_field, checked_points
from fmbench.methods.cfm import CFM
from fmbench.solvers.dopri5 import Dopri5
from fmbench.solvers.euler import Euler
from fmbench.zoo.model import Model
from fmbench.zoo.trial import trial

TASK = "gaussian-moons"


def good(x, t):
    return torch.stack([-x[:, 1], x[:, 0]], 1) + t[:, None]


def in_place(x, t):
    x += 1
    return x


def time_in_place(x, t):
    t.zero_()
    return -x


def behind(x, t):
    x.numpy()[0] += 1
    return -x


class Memory(nn.Module):
    """Returns one tensor over and over."""

    def __init__(self):
        super().__init__()
        self.register_buffer("out", torch.zeros(16, 2))

    def forward(self, x, t):
        return self.out[: len(x)].copy_(-x * (1 + t[:, None]))


class Stochastic(CFM):
    """An SDE: every step draws noise of its own."""

    def sample(self, noise, sampler, labels=None):
        for k in range(sampler.steps):
            t = torch.full((len(noise),), k / sampler.steps)
            noise = noise + self.velocity(noise, t) / sampler.steps + 0.1 * torch.randn(noise.shape)
        return noise


class Map(CFM):
    """Overrides sample() and returns what it is given to return."""

    def __init__(self, made):
        super().__init__(nn.Linear(2, 2))
        self.made = made

    def sample(self, draws, sampler, cond=None):
        noise = draws.start()
        self.net(noise)
        return self.made(noise)

    def velocity(self, x, t, cond=None, guidance=1.0):
        self.net(x)
        return -x


FIELDS = {
    "column": (lambda x, t: x[:, :1], "has shape"),
    "row": (lambda x, t: x[:1], "has shape"),
    "scalar": (lambda x, t: x.sum(), "has shape"),
    "flat": (lambda x, t: x.flatten(), "has shape"),
    "extra": (lambda x, t: x[:, None], "has shape"),
    "none": (lambda x, t: None, "is of type NoneType"),
    "tuple": (lambda x, t: (x,), "is of type tuple"),
    "list": (lambda x, t: [x], "is of type list"),
    "numpy": (lambda x, t: x.numpy(), "is of type ndarray"),
    "number": (lambda x, t: 1.0, "is of type float"),
    "integers": (lambda x, t: x.long(), "has dtype int64"),
    "boolean": (lambda x, t: x > 0, "has dtype bool"),
    "complex": (lambda x, t: x + 1j, "has dtype complex64"),
    "sparse": (lambda x, t: x.to_sparse(), "has layout"),
    "nested": (lambda x, t: torch.nested.nested_tensor(list(x)), "has layout nested"),
    "meta": (lambda x, t: x.to("meta"), "on device meta"),
    "in place": (in_place, "in place"),
    "time in place": (time_in_place, "in place"),
    "behind torch's back": (behind, "in place"),
    "one tensor": (Memory(), "overwrites what it returned before"),
    "mean of the batch": (lambda x, t: x - x.mean(0), "batch"),
    "a little of the batch": (lambda x, t: 1e-2 * (x - x.mean(0)), "batch"),
    "small and of the batch": (lambda x, t: 1e-4 * (x - x.mean(0)), "batch"),
    "first time": (lambda x, t: -x * t[0], "one time per sample"),
    "position": (lambda x, t: -x + torch.arange(len(x))[:, None], "batch"),
    "size": (lambda x, t: -x / len(x), "batch"),
    "noise": (lambda x, t: torch.randn_like(x), "differ|batch"),
    "seeded noise": (lambda x, t: torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), "batch"),
    "numpy noise": (lambda x, t: x + torch.from_numpy(np.random.randn(*x.shape)).float(), "differ|batch"),  # noqa: NPY002
    "python noise": (lambda x, t: x * random.random(), "differ|batch"),
    "nan": (lambda x, t: x * math.nan, "NaN or infinite"),
    "infinite at the end": (lambda x, t: -x / (1 - t[:, None]), "NaN or infinite"),
    "exit": (lambda x, t: exit(3), "SystemExit"),
    "key": (lambda x, t: {}["x"], "KeyError"),
    "stop": (lambda x, t: next(iter(())), "StopIteration"),
    "recursion": (lambda x, t: FIELDS["recursion"][0](x, t), "RecursionError"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_field_is_refused_in_one_line(name):
    field, words = FIELDS[name]
    with pytest.raises(ValueError, match=words) as caught:
        trial(fmbench.wrap(field, TASK, "m"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda x: x[:, :1], "the sample has shape"),
        (lambda x: x.numpy(), "the sample is of type ndarray"),
        (lambda x: x.to(torch.complex64), "complex64"),
        (lambda x: x.add_(1), "in place"),
        (lambda x: x + torch.randn_like(x), "differ by"),
        (lambda x: x - x.mean(0), "batch"),
        (lambda x: x / 0, "NaN or infinite"),
    ],
)
def test_a_method_that_overrides_sample_is_tried_too(made, words):
    task = fmbench.load(f"{TASK}/cfm").task
    with pytest.raises(ValueError, match=words):
        trial(Model(f"{TASK}/map", task, Map(made)))


def test_an_sde_is_refused_by_the_name_of_the_item():
    model = fmbench.load(f"{TASK}/cfm")
    with pytest.raises(ValueError, match=r"sample: deterministic: two calls of sample\(\) on the same noise differ"):
        trial(Model(f"{TASK}/sde", model.task, Stochastic(model.method.net)))


FINE = {
    "function": good,
    "double": lambda x, t: good(x, t).double(),
    "half": lambda x, t: good(x.half(), t.half()),
    "bfloat16": lambda x, t: good(x.bfloat16(), t.bfloat16()),
    "graph": lambda x, t: torch.enable_grad()(lambda: good(x, t) * torch.ones(2, requires_grad=True))(),
    "view": lambda x, t: x.flip(1)[:, :],
    "transposed": lambda x, t: good(x, t).T.contiguous().T,
    "itself": lambda x, t: x,
    "zero": lambda x, t: torch.zeros_like(x),
    "tiny": lambda x, t: 1e-12 * good(x, t),
    "huge": lambda x, t: 1e6 * good(x, t),
    "standing": lambda x, t: x[:1].expand_as(x) * 0,
    "autocast": lambda x, t: _autocast(x),
}
LAYERS = nn.Sequential(nn.Linear(2, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 2))


def _autocast(x):
    with torch.autocast("cpu", torch.bfloat16):
        return LAYERS(x).float()


@pytest.mark.parametrize("name", FINE)
def test_a_right_field_passes_in_any_precision(name):
    model = fmbench.wrap(FINE[name], TASK, "m")
    trial(model)
    assert model.sample(5, steps=2).dtype == torch.float32
    assert not model.sample(5, steps=2).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_low_precision_pass(dtype, seeded):
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 512), nn.SiLU(), nn.Linear(512, 2))).to(dtype)
    trial(fmbench.wrap(net, TASK, "m", lambda m, x, t: m(x.to(dtype))))


@pytest.mark.parametrize("entry", ["gaussian-moons/cfm", "gaussian-moons/rf-distill", "digits/oracle", "digits/ot-cfm"])
def test_entries_pass_and_are_left_alone(entry):
    model = fmbench.load(entry)
    before = model.sample(20, steps=1)
    state, versions = torch.get_rng_state(), [p._version for p in model.method.parameters()]
    trial(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert versions == [p._version for p in model.method.parameters()]
    assert not model.method.net._forward_pre_hooks
    assert torch.equal(model.sample(20, steps=1), before)


def test_a_network_that_counts_is_put_back_and_one_that_learns_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x, t):
            self.calls += 1
            return -x

    net = Counting()
    trial(fmbench.wrap(net, TASK, "m"))
    assert net.calls == 0

    class Learning(Counting):
        def forward(self, x, t):
            self.weight.add_(1)
            return -x

    with pytest.raises(ValueError, match="changes its parameter"):
        trial(fmbench.wrap(Learning(), TASK, "m"))


def test_batch_normalisation_is_in_evaluation_mode(seeded):
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))).train()
    trial(fmbench.wrap(net, TASK, "m", lambda m, x, t: m(x)))
    assert net.training
    assert net[1].num_batches_tracked == 0


@pytest.mark.parametrize("solver", [Euler(), Dopri5()])
def test_solvers_refuse_what_would_broadcast(solver):
    grid = torch.tensor([0.0, 1.0])
    x = torch.ones(3, 2)
    for field in (lambda x, t: x[:, :1], lambda x, t: x.long(), in_place):
        with pytest.raises(ValueError, match="velocity"):
            solver.solve(field, x.clone(), grid)


def test_points_that_are_right_are_handed_on_as_they_are():
    x = torch.ones(3, 2)
    assert checked_points(x, x) is x
    assert checked_points(x.double(), x).dtype == torch.float32
    v = torch.zeros(3, 2)
    assert checked_field(lambda x, t: v)(x, x[:, 0]) is v


@pytest.mark.parametrize("stiffness", [1e4, 1e6])
def test_an_adaptive_solver_gives_up(stiffness):
    calls = []

    def field(x, t):
        calls.append(1)
        return -stiffness * (x - 1)

    with pytest.raises(ValueError, match=r"40 steps \(most_steps\) were not enough"):
        Dopri5(most_steps=40).solve(field, torch.zeros(4, 2), torch.tensor([0.0, 1.0]))
    assert len(calls) <= 6 * 40 + 2
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="most_steps"):
            Dopri5(most_steps=wrong)
