"""Everything heavy runs on the device of the model: samplers, guidance, the reference solve and the probe, shown without a GPU."""

from __future__ import annotations

import pytest
import torch
from elsewhere import ELSEWHERE, Far, elsewhere, move, without_driver
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fmbench
from fmbench import transfers
from fmbench.evaluation.flow_scoring import FlowScorer
from fmbench.execution.checked import guarded_field
from fmbench.metrics import likelihood, lipschitz
from fmbench.metrics.jacobian import (
    by_passes,
    exact_divergence,
    from_one_graph,
    hutchinson_divergence,
    jacobian_product,
    transposed_product,
)
from fmbench.records.metric import METRICS
from fmbench.records.sampler import Sampler
from fmbench.zoo.model import Model, device_of, generate

ENTRY = "gaussian-moons/cfm"
FLOW = {"samples": 12, "steps": 4, "probes": 6, "probe_steps": 4}
DIFFERENTIATE = ("nll", "lipschitz")
"""Metrics that take derivatives of the field."""
SAMPLERS = [Sampler(name, 3) for name in ("euler", "midpoint", "heun", "rk4")] + [Sampler("dopri5")]


class Line(nn.Module):
    """A field with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.tensor([1.0, -0.5]))

    def forward(self, x, t):
        return self.speed * t[:, None] - x


def wrapped() -> Model:
    return fmbench.wrap(Line(), "gaussian-moons", "line")


def function() -> Model:
    return fmbench.wrap(lambda x, t: t[:, None] - x, "gaussian-moons", "function")


MODELS = {"entry": lambda: fmbench.load(ENTRY), "wrapped": wrapped, "function": function,
          "closed form": lambda: fmbench.load("gaussian-moons/oracle")}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.label)
@pytest.mark.parametrize("name", MODELS)
def test_samples_are_made_elsewhere_and_are_those_of_the_cpu(name, sampler):
    model = MODELS[name]()
    noise = model.noise(0, 20, 0)
    here = generate(model.method, noise, sampler).samples
    seen = []
    move(model.method)
    model.method.net.register_forward_pre_hook(lambda _, args: seen.append({x.device for x in args}))
    with elsewhere():
        there = generate(model.method, noise, sampler).samples
    assert seen
    assert all(devices == {ELSEWHERE} for devices in seen)
    assert type(there) is torch.Tensor
    assert torch.equal(here, there)


@pytest.mark.slow
def test_guided_samples_are_made_elsewhere(trained_zoo):
    model = fmbench.load(str(trained_zoo / "digits" / "tiny-conditional"))
    noise, labels = model.noise(0, 4, 0), model.labels(0, 4, 0)
    sampler = Sampler("euler", 2, guidance=2.0)
    here = generate(model.method, noise, sampler, labels)
    move(model.method)
    with elsewhere():
        there = generate(model.method, noise, sampler, labels)
    assert torch.equal(here.samples, there.samples)
    assert here.evaluations == there.evaluations


@pytest.fixture
def reverse_mode(monkeypatch):
    """Derivatives from the graph of one evaluation: tensors of ours have none in forward mode, with which that is compared."""
    for metric in (likelihood, lipschitz):
        monkeypatch.setattr(metric, "linearisation", lambda *_, **__: from_one_graph)


def scores(model: Model) -> dict:
    names = [name for name, metric in METRICS.items() if metric.scope == "flow"]
    return FlowScorer(model, names, 0, FLOW, 12, 8).score()


@pytest.mark.slow
@pytest.mark.usefixtures("reverse_mode")
@pytest.mark.parametrize("name", ["entry", "wrapped"])
def test_flow_metrics_follow_the_model_and_agree_to_the_bit(name):
    model = MODELS[name]()
    here = scores(model)
    move(model.method)
    with elsewhere():
        there = scores(model)
    assert there == here
    assert sum(estimate.value is not None for estimate in here.values()) >= 10
    assert all(here[name].value is not None for name in DIFFERENTIATE)


@pytest.mark.usefixtures("reverse_mode")
def test_bits_per_dimension_follow_the_model(trained_zoo):
    model = fmbench.load(str(trained_zoo / "digits" / "tiny-conditional"))
    here = FlowScorer(model, ["bits_per_dimension"], 0, FLOW, 12, 8).score()
    move(model.method)
    with elsewhere():
        there = FlowScorer(model, ["bits_per_dimension"], 0, FLOW, 12, 8).score()
    assert there == here
    assert here["bits_per_dimension"].value is not None


def test_a_tensor_left_on_the_cpu_is_found():
    """The check can fail: a field that brings a tensor of its own from the CPU."""
    own = torch.ones(20, 2)
    model = fmbench.wrap(lambda x, t: x * own, "gaussian-moons", "left")
    move(model.method)
    with elsewhere(), pytest.raises(ValueError, match="two devices"):
        model.sample(20, steps=2)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_torch_itself_sees_no_mixed_devices(solver, monkeypatch):
    """Under torch's own fake CUDA tensors, which know more rules than ours and hold no numbers."""
    without_driver(monkeypatch)
    sampler, times = Sampler(solver, 3), Sampler(solver, 3).times()
    monkeypatch.setattr(Sampler, "times", lambda self: times)
    for build in (wrapped, MODELS["entry"]):
        model = build()
        noise = model.noise(0, 20, 0)
        with FakeTensorMode(allow_non_fake_inputs=True):
            fake(model.method)
            assert device_of(model.method).type == "cuda"
            assert generate(model.method, noise, sampler).samples.device.type == "cpu"


@pytest.mark.parametrize("name", ["entry", "wrapped"])
def test_derivatives_of_the_field_stay_on_its_device(name):
    model = MODELS[name]()
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake(model.method)
        x, t = torch.ones((5, 2), device="cuda"), torch.ones(5, device="cuda")
        field = guarded_field(model.method.field())
        assert {value.device.type for value in jacobian_product(field, x, t, x)} == {"cuda"}
        assert {value.device.type for value in exact_divergence(field, x, t, linearise=by_passes)} == {"cuda"}
        assert {value.device.type for value in hutchinson_divergence(field, x, t, x[None], by_passes)} == {"cuda"}


def products(model: Model, x: Tensor) -> list[Tensor]:
    """Everything that reverse mode gives at some points, brought to the CPU."""
    field, t = guarded_field(model.method.field()), torch.full((len(x),), 0.3, device=x.device)
    at = from_one_graph(field, x, t)
    found = [*transposed_product(field, x, t, x), at.v, at.push(x), at.pull(x)]
    found += [*exact_divergence(field, x, t, linearise=from_one_graph)]
    found += [*hutchinson_divergence(field, x, t, x[None], from_one_graph)]
    assert {value.device for value in found} == {x.device}
    return [value.cpu() for value in found]


@pytest.mark.parametrize("name", ["entry", "wrapped"])
def test_products_in_reverse_mode_stay_there_and_are_those_of_the_cpu(name):
    """Not under fake CUDA tensors: torch's backward passes ask the driver for the device."""
    model = MODELS[name]()
    x = model.noise(0, 5, 0)
    here = products(model, x)
    move(model.method)
    with elsewhere():
        there = products(model, x.to(ELSEWHERE))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


class Transfers(TorchDispatchMode):
    """What goes between devices, and what makes the host wait for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, bool]] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and "device" in kwargs:
            seen = str(args[0].device.type), torch.device(kwargs["device"]).type, bool(kwargs.get("non_blocking"))
            self.seen += [seen] if seen[0] != seen[1] else []
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.waits.append(str(func))
        return func(*args, **kwargs)


def test_no_minibatch_waits_for_another(monkeypatch):
    """Pinned and not waited for, there and back; one wait, for all, before the samples are read."""
    calls, sampler = without_driver(monkeypatch), Sampler("heun", 3)
    times, model = sampler.times(), MODELS["entry"]()
    monkeypatch.setattr(Sampler, "times", lambda self: times)
    noise = model.noise(0, 20, 0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake(model.method)
        with Transfers() as moved:
            generate(model.method, noise, sampler, batch_size=4)
    assert moved.seen == [("cpu", "cuda", True), ("cuda", "cpu", True)] * 5
    assert not moved.waits
    assert calls == ["pin"] * 5 + ["wait"]


def test_samples_on_their_way_are_bounded(monkeypatch):
    calls = without_driver(monkeypatch)
    monkeypatch.setattr(transfers, "MOST", 3 * 8)
    gathered, parts = transfers.Gathered(), [torch.full((2,), float(k)) for k in range(10)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(10):
            gathered.add(torch.ones(2, device="cuda"))
        assert gathered.whole().shape == (20,)
    assert calls == ["wait"] * 3
    here = transfers.Gathered()
    for part in parts:
        here.add(part)
    assert torch.equal(here.whole(), torch.cat(parts))


def test_a_copy_is_a_copy_where_it_is_already():
    x = torch.ones(3)
    assert transfers.sent(x, "cpu") is x
    copy = transfers.sent(x, "cpu", copy=True)
    assert torch.equal(copy, x)
    assert copy.data_ptr() != x.data_ptr()


def fake(module: nn.Module) -> None:
    """Put fake CUDA tensors in the place of parameters and buffers, inside the mode."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device="cuda"), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")


def test_far_tensors_refuse_to_mix():
    with elsewhere():
        x = torch.ones(3).to(ELSEWHERE)
        assert isinstance(x, Far)
        assert float(x.sum()) == 3
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            x.numpy()
