"""What flows are asked by: conditions, keyword-only second times, capabilities; and what was written for version 0.1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmbench.flows.flow import DENSITY, GUIDANCE, LABELS, VELOCITY
from fmbench.flows.network import evaluate
from fmbench.methods import Method, VelocityMethod
from fmbench.methods.cfm import CFM
from fmbench.nets.cnn import CNN
from fmbench.nets.dit import DiT
from fmbench.nets.mlp import MLP
from fmbench.nets.unet import UNet
from fmbench.noise import Draws, generator
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition, as_condition
from fmbench.zoo.model import generate

SHAPE, N = (1, 8, 8), 6
NETS = {
    "mlp": lambda **more: MLP(SHAPE, 3, width=16, depth=2, **more),
    "unet": lambda **more: UNet(SHAPE, 3, channels=16, patch=2, **more),
    "dit": lambda **more: DiT(SHAPE, 3, width=24, depth=2, heads=2, **more),
}


def moved(make, **more) -> nn.Module:
    """A network whose every parameter is away from where it starts."""
    net, random = make(**more), generator(3)
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=random)
    return net.eval()


def points() -> tuple[torch.Tensor, torch.Tensor]:
    random = generator(4)
    return torch.randn((N, *SHAPE), generator=random), torch.rand(N, generator=random)


def test_a_condition_has_one_row_per_sample() -> None:
    cond = Condition(labels=torch.arange(4), context=torch.randn((4, 3), generator=generator(0)))
    part = cond.rows(slice(1, 3))
    assert part.labels.tolist() == [1, 2]
    assert torch.equal(part.context, cond.context[1:3])
    assert len(part) == 2
    assert cond.to("cpu").measurement is None
    with pytest.raises(ValueError, match="same number of rows"):
        Condition(labels=torch.arange(4), context=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="pass None for no condition"):
        Condition()
    assert as_condition(None) is None
    assert as_condition(torch.tensor([1, 2])).labels.tolist() == [1, 2]
    for wrong in (0.5, torch.rand(3), torch.zeros((2, 2), dtype=torch.int64), [1, 2]):
        with pytest.raises(ValueError, match="must be a Condition or class labels"):
            as_condition(wrong)


@pytest.mark.parametrize("name", NETS)
def test_a_second_time_is_heard_and_is_no_label(name: str) -> None:
    net, (x, t) = moved(NETS[name], second_time=True), points()
    assert torch.equal(net(x, t), net(x, t, r=t)), "a velocity looks nowhere"
    assert not torch.allclose(net(x, t, r=0 * t), net(x, t), atol=1e-4)
    change = (net(x, t, r=torch.where(torch.arange(N) == 2, 0 * t, t)) - net(x, t)).flatten(1).abs().amax(1)
    assert (change > 1e-4).tolist() == [k == 2 for k in range(N)]
    with pytest.raises(TypeError):
        net(x, t, t)


@pytest.mark.parametrize("name", NETS)
def test_the_derivative_along_a_path_is_that_of_differences(name: str) -> None:
    """In double precision."""
    net, (x, t) = moved(NETS[name], second_time=True).double(), points()
    x, t, v, r = x.double(), t.double(), torch.ones_like(x).double(), 0.25 * t.double()

    def along(step: float, clock: float) -> torch.Tensor:
        return net(x + step * v, t, r=r + clock * step)

    for clock, slack in ((0.0, 1e-6), (1.0, 0.01)):  # times are embedded in single precision
        _, found = torch.func.jvp(lambda x, r: net(x, t, r=r), (x, r), (v, clock * torch.ones_like(r)))
        step = 1e-5 if clock == 0 or name == "mlp" else 1e-3
        expected = (along(step, clock) - along(-step, clock)) / (2 * step)
        assert torch.allclose(found, expected, atol=slack * float(expected.detach().abs().max()))
    found.square().sum().backward()
    # The bias of the last layer moves no derivative.
    assert sum(p.grad is None or not p.grad.any() for p in net.parameters()) <= 2
    rows = torch.func.vmap(lambda x, t, r: torch.func.jvp(lambda x: net(x[None], t[None], r=r[None])[0], (x,), (x,))[1])
    each = torch.func.jvp(lambda x: net(x, t, r=r), (x,), (x,))[1]
    assert torch.allclose(rows(x, t, r), each, atol=1e-9)
    state = dict(net.named_parameters())
    called = torch.func.jvp(lambda x: torch.func.functional_call(net, state, (x, t), {"r": r}), (x,), (x,))[1]
    assert torch.equal(called, each)


@pytest.mark.parametrize("name", NETS)
def test_a_network_of_one_time_refuses_a_second_and_keeps_its_names(name: str) -> None:
    net, (x, t) = NETS[name](), points()
    with pytest.raises(ValueError, match="takes one time; build it with second_time = true"):
        net(x, t, r=t)
    grown = NETS[name](second_time=True)
    assert set(net.state_dict()) <= set(grown.state_dict())


def test_the_classifier_network_ignores_times_and_conditions() -> None:
    net, (x, t) = CNN(SHAPE, 3), points()
    assert torch.equal(net(x), net(x, t, r=t, cond=Condition(torch.zeros(N, dtype=torch.int64))))


def test_capabilities_say_what_a_model_can_do() -> None:
    assert CFM(MLP((2,))).capabilities >= {VELOCITY, DENSITY}
    assert not CFM(MLP((2,))).capabilities & {LABELS, GUIDANCE}
    assert CFM(MLP((2,), 3)).capabilities >= {LABELS, GUIDANCE}
    assert GUIDANCE not in CFM(MLP((2,), 3), label_dropout=0.0).capabilities


class Positional(nn.Module):
    """Takes labels as its third argument, as networks did before version 0.2."""

    num_classes = 3

    def forward(self, x, t, labels=None):
        return x if labels is None else x + labels[:, None]


class Second(nn.Module):
    """Takes a second time as its third argument."""

    num_classes = 3

    def forward(self, x, t, s):
        return x * (t - s)[:, None]


def test_labels_by_position_still_work_with_a_warning_and_a_second_time_is_refused() -> None:
    x, t, cond = torch.zeros(3, 2), torch.zeros(3), Condition(torch.arange(3))
    with pytest.warns(DeprecationWarning, match=r"Positional\.forward takes labels by position"):
        assert evaluate(Positional(), x, t, cond=cond)[:, 0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"Second\.forward takes no condition: its third argument is 's'"):
        evaluate(Second(), x, t, cond=cond)
    with pytest.raises(ValueError, match="it takes \\(x, t\\) only"):
        evaluate(nn.Identity(), x, t, cond=cond)


def test_methods_of_version_0_1_still_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="Halve is written for fmbench 0.1; write velocity"):

        class Halve(VelocityMethod):
            def velocity(self, x, t, labels=None, guidance=1.0):
                return -x * (1.0 if labels is None else 1.0 + labels[:, None]) * guidance

            def loss(self, batch, generator):
                return self.net(batch.x0).mean()

    with pytest.warns(DeprecationWarning, match="Jump is written for fmbench 0.1; write sample"):

        class Jump(Method):
            steps_allowed = (1, 2)
            needs_teacher = True

            def sample(self, noise, budget, labels=None):
                return noise + budget.steps

            def loss(self, batch, generator):
                return self.net(batch.x0).mean()

    x = torch.ones(4, 2)
    halve = Halve(nn.Identity())
    assert torch.equal(halve.sample(Draws.given(x), Sampler("euler", 1)), 0 * x)
    assert torch.equal(halve.velocity(x, x[:, 0], torch.arange(4)), -x * torch.arange(1, 5)[:, None])
    assert torch.equal(halve.field(Condition(torch.arange(4)), 2.0)(x, x[:, 0]), -2 * x * torch.arange(1, 5)[:, None])
    jump = Jump(nn.Identity())
    assert torch.equal(generate(jump, x, Sampler("euler", 2)).samples, x + 2)
    assert jump.default.steps == 1
    assert Jump.needs_base
    with pytest.raises(ValueError, match="euler and 1, 2 step only"):
        generate(jump, x, Sampler("euler", 3))
