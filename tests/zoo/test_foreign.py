"""Wrapped modules: what is taken, what is refused in one line, and that everything comes back as it was."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

import fmbench
from fmbench.records.sampler import Sampler
from fmbench.zoo.foreign import lent, modules_of, state_hash
from fmbench.zoo.model import generate
from fmbench.zoo.trial import trial

TASK = "gaussian-moons"
PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 64
seeds = [0]
samplers = [{ solver = "euler", steps = 2 }]
metrics = ["wasserstein2", "straightness", "nll"]
flow = { samples = 16, steps = 4, probes = 8, probe_steps = 4 }
latency = { batches = [1], seconds = 0.0 }
rank = { vector = "wasserstein2", image = "frechet_distance", steps = 2 }
"""


def call(m, x, t):
    return m(x)


class Rich(nn.Module):
    """A module with everything that an evaluation could change."""

    def __init__(self, fails=False):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.last = nn.Linear(4, 2).requires_grad_(False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.norm.eval()
        self.first.weight.grad = torch.ones_like(self.first.weight)
        self.hooked, self.fails = 0, fails
        self.first.register_forward_hook(lambda *_: setattr(self, "hooked", self.hooked + 1))

    def forward(self, x, t):
        self.calls += 1
        self.last.register_forward_hook(lambda module, args, out: out)
        self.last.requires_grad_(True)
        if self.fails and self.calls > 20:
            raise KeyError("x")
        return self.last(self.drop(self.norm(self.first(x))))


def everything(module):
    return {
        "modes": [part.training for part in module.modules()],
        "tensors": [id(p) for p in (*module.parameters(), *module.buffers())],
        "storage": [p.data_ptr() for p in (*module.parameters(), *module.buffers())],
        "values": {k: v.tolist() for k, v in module.state_dict().items()},
        "wanted": [p.requires_grad for p in module.parameters()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in module.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()],
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(PROTOCOL)
    return path


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_comes_back_as_it_was(fails, tiny, seeded):
    net = seeded(lambda: Rich(fails)).train()
    net.norm.eval()
    before = everything(net)
    model = fmbench.wrap(net, TASK, "m")
    assert everything(net) == before
    failed = None
    try:
        failed = fmbench.evaluate(model, tiny)[1].rows[0].failed
    except ValueError as error:
        failed = str(error)
    assert (failed is not None and "KeyError" in failed) == fails
    assert everything(net) == before


def test_sampling_leaves_modes_alone_and_uses_evaluation_mode(seeded):
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.9), nn.Linear(8, 2))).train()
    net[1].eval()
    model = fmbench.wrap(net, TASK, "m", call)
    trained, modes = model.sample(9, steps=2), [part.training for part in net.modules()]
    assert modes == [True, True, False, True]
    assert torch.equal(fmbench.wrap(copy.deepcopy(net).eval(), TASK, "m", call).sample(9, steps=2), trained)


def test_lending_undoes_a_move():
    net = nn.Linear(2, 2)
    before, kept = everything(net), net.weight
    with lent(net, "cpu"):
        net.to(torch.float64)
        assert net.weight.dtype == torch.float64
    assert net.weight is kept
    assert everything(net) == before


def test_training_on_after_wrapping_is_another_model(tiny, tmp_path):
    net = nn.Linear(2, 2)
    model = fmbench.wrap(net, TASK, "m", call)
    first = fmbench.evaluate(model, tiny, out=tmp_path)[1]
    with torch.no_grad():
        net.weight.add_(1)
    second = fmbench.evaluate(model, tiny, out=tmp_path)[1]
    assert first.model["weights_sha256"] != second.model["weights_sha256"]
    assert first.rows[0].samples != second.rows[0].samples


class Extra(nn.Linear):
    """A layer with state that is no tensor."""

    def __init__(self, extra):
        super().__init__(2, 2)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_the_hash_sees_names_shapes_dtypes_bits_and_extra_state():
    one = nn.ParameterDict({"a": torch.ones(2, 3)})
    others = [
        nn.ParameterDict({"b": torch.ones(2, 3)}),
        nn.ParameterDict({"a": torch.ones(3, 2)}),
        nn.ParameterDict({"a": torch.ones(6)}),
        nn.ParameterDict({"a": torch.ones(2, 3).bfloat16()}),
        nn.ParameterDict({"a": torch.zeros(2, 3)}),
        nn.ParameterDict({"a": -torch.zeros(2, 3)}),
        nn.ParameterDict({"a": torch.ones(1, 3), "b": torch.ones(1, 3)}),
        *(Extra(extra) for extra in (None, {"steps": 1}, {"steps": 2}, [1, torch.ones(2)], [1, torch.zeros(2)])),
    ]
    hashes = [state_hash(net) for net in (one, *others)]
    assert len(set(hashes)) == len(hashes)
    assert state_hash(nn.ParameterDict({"a": torch.ones(2, 3)})) == hashes[0]
    assert state_hash(Extra({"steps": 2})) == hashes[10]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_taken_when_call_converts(dtype, tiny):
    net = nn.Linear(2, 2).to(dtype)
    with pytest.raises(ValueError, match="arrive in float32; convert them in call") as caught:
        fmbench.wrap(net, TASK, "m", call).sample(4, steps=2)
    assert "\n" not in str(caught.value)
    model = fmbench.wrap(net, TASK, "m", lambda m, x, t: m(x.to(dtype)))
    assert model.sample(4, steps=2).dtype == torch.float32
    assert fmbench.evaluate(model, tiny)[1].rows[0].metrics["wasserstein2"].value > 0


NET = nn.Linear(2, 2)


class Holder:
    """An object that is called and keeps its network in a list."""

    def __init__(self, net):
        self.nets = [net]

    def __call__(self, x, t):
        return self.nets[0](x)


def around(net):
    return lambda x, t: net(x)


@pytest.mark.parametrize(
    "field",
    [
        lambda x, t: NET(x),
        around(NET),
        functools.partial(lambda net, x, t: net(x), NET),
        Holder(NET),
        Holder(NET).__call__,
        lambda x, t, net=NET: net(x),
    ],
    ids=["global", "closure", "partial", "object", "bound", "default"],
)
def test_the_network_behind_a_function_is_found(field):
    assert modules_of(field) == [NET]
    model = fmbench.wrap(field, TASK, "m")
    assert model.parameters == 6
    assert model.identity == fmbench.wrap(NET, TASK, "m", call).identity


def test_a_function_without_a_network_has_no_parameters(tiny):
    model = fmbench.wrap(lambda x, t: -x, TASK, "m")
    assert model.parameters == 0
    assert fmbench.evaluate(model, tiny)[1].rows[0].nfe["network"] == 2


def test_a_network_in_call_counts():
    head = nn.Linear(2, 2)
    assert fmbench.wrap(NET, TASK, "m", lambda m, x, t: head(m(x))).parameters == 12


class Samples:
    def sample(self, n):
        return torch.zeros(n, 2)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ([NET], "got list"),
        (Samples(), "got Samples"),
        (None, "got NoneType"),
        (torch.ones(2), "got Tensor"),
        (nn.Linear, "the class Linear"),
        (nn.LazyLinear(2), "lazy"),
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (nn.DataParallel(NET), r"wrap its \.module"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_wrapped_is_refused_in_one_line(field, words):
    with pytest.raises(ValueError, match=words) as caught:
        fmbench.wrap(field, TASK, "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../m", "/tmp/m", "a/b", "", ".", "..", "data", "oracle", "con", "a" * 101, None, 3, "a\nb"]
)
def test_names_of_models_follow_the_one_rule(name):
    with pytest.raises(ValueError, match="name"):
        fmbench.wrap(NET, TASK, name)


def test_unknown_tasks_and_calls_are_refused():
    with pytest.raises(ValueError, match="nearest: gaussian-moons"):
        fmbench.wrap(NET, "gaussian-mons", "m")
    with pytest.raises(ValueError, match="name of a task"):
        fmbench.wrap(NET, None, "m")
    with pytest.raises(ValueError, match="call must be a function"):
        fmbench.wrap(NET, TASK, "m", 3)
    with pytest.raises(ValueError, match="already"):
        fmbench.wrap(fmbench.load(f"{TASK}/cfm"), TASK, "m")


class Counting(nn.Module):
    """Counts its own rows, which is what the harness must report."""

    def __init__(self):
        super().__init__()
        self.layer, self.rows = nn.Linear(2, 2), 0

    def forward(self, x, t):
        self.rows += len(x)
        return self.layer(x)

    def field(self, x, t):
        return self.layer(x)


@pytest.mark.parametrize(
    ("call", "evaluations"),
    [
        (lambda m, x, t: m(x, t), 5),
        (lambda m, x, t: 2 * m(x, t) - m(0 * x, t), 10),
        (lambda m, x, t: m(torch.cat([x, x]), torch.cat([t, t]))[: len(x)], 10),
        (lambda m, x, t: m.forward(t=t, x=x), 5),
    ],
    ids=["one call", "two calls", "one doubled batch", "forward itself"],
)
def test_nfe_is_what_went_through_the_network_inside_the_call(call, evaluations):
    net = Counting()
    model = fmbench.wrap(net, "gaussian-moons", "mine", call)
    made = generate(model.method, model.draws(0, 100, 0), Sampler("euler", 5))
    assert made.evaluations.network == net.rows == 100 * evaluations
    assert "forward" not in vars(net)


def test_a_model_that_is_not_called_through_its_forward_names_its_networks():
    net = Counting()
    hidden = fmbench.wrap(net, "gaussian-moons", "mine", lambda m, x, t: m.field(x, t))
    with pytest.raises(
        ValueError, match=r"uses the parameter .*layer\.(weight|bias) outside every network .* name the module"
    ):
        trial(hidden)
    named = fmbench.wrap(net, "gaussian-moons", "mine", lambda m, x, t: m.field(x, t), networks={"network": net.layer})
    trial(named)
    assert generate(named.method, named.draws(0, 10, 0), Sampler("heun", 3)).evaluations.network == 60
