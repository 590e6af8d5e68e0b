"""Everything heavy runs on the device of the model: samplers, guidance, the reference solve and the probe, shown without a GPU."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from elsewhere import ELSEWHERE, Far, elsewhere, move
from torch import nn
from torch._subclasses import FakeTensorMode

import fmbench
from fmbench.evaluation.flow_scoring import FlowScorer
from fmbench.execution.checked import guarded_field
from fmbench.metrics.jacobian import (
    exact_divergence,
    hutchinson_divergence,
    jacobian_product,
)
from fmbench.records.metric import METRICS
from fmbench.records.sampler import Sampler
from fmbench.zoo.model import Model, device_of, generate

ENTRY = "gaussian-moons/cfm"
FLOW = {"samples": 12, "steps": 4, "probes": 6, "probe_steps": 4}
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


def differentiates(metric) -> bool:
    """Whether a metric takes derivatives of the field, which tensors of ours do not carry; see the test of the products."""
    return "jacobian" in Path(inspect.getfile(inspect.unwrap(metric.resolve()))).read_text()


def scores(model: Model) -> dict:
    names = [name for name, metric in METRICS.items() if metric.scope == "flow" and not differentiates(metric)]
    return FlowScorer(model, names, 0, FLOW, 12, 8).score()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["entry", "wrapped"])
def test_flow_metrics_follow_the_model_and_agree_to_the_bit(name, monkeypatch):
    # Derivatives pass none of our tensors; the look at them is left out like the metrics that take them.
    monkeypatch.setattr(FlowScorer, "_differentiable", lambda *_: True)
    model = MODELS[name]()
    here = scores(model)
    move(model.method)
    with elsewhere():
        there = scores(model)
    assert there == here
    assert sum(estimate.value is not None for estimate in here.values()) >= 8


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
        assert {value.device.type for value in exact_divergence(field, x, t)} == {"cuda"}
        assert {value.device.type for value in hutchinson_divergence(field, x, t, x[None])} == {"cuda"}


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
