"""Work that no network is counted for is found before the clock starts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmbench.flows.audit import auditing
from fmbench.flows.evaluations import counting


class Flow(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.net, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.call = call

    def forward(self, x):
        return self.call(self, x)


def look(call, **networks):
    flow = Flow(call)
    with (
        torch.no_grad(),
        counting({"network": flow.net, **{k: getattr(flow, v) for k, v in networks.items()}}, 2) as count,
        auditing(count, flow) as audit,
    ):
        flow(torch.ones(16, 8))
    return audit


def test_operations_of_a_network_are_its_own() -> None:
    audit = look(lambda f, x: x + 0.5 * f.net(x))
    assert (audit.inside, audit.outside, audit.touched) == (2 * 16 * 8 * 8, 0, [])
    audit.require()


def test_a_second_network_that_nobody_named_is_found() -> None:
    hidden = look(lambda f, x: f.net(x) + f.other(x))
    assert hidden.inside == hidden.outside
    with pytest.raises(ValueError, match=r"addmm uses the parameter other\.(weight|bias) outside every network"):
        hidden.require()
    look(lambda f, x: f.net(x) + f.other(x), head="other").require()


def test_a_parameter_beside_the_networks_is_found_through_views() -> None:
    with pytest.raises(ValueError, match="mul uses the parameter scale"):
        look(lambda f, x: f.net(x) * f.scale[None].expand(16, 8)).require()


def test_work_without_parameters_is_found_unless_declared() -> None:
    def heavy(f, x):
        y = f.net(x)
        for _ in range(3):
            y = y @ torch.ones(8, 8)
        return y

    audit = look(heavy)
    with pytest.raises(ValueError, match="75 % of the operations are outside"):
        audit.require()
    audit.require(declared=True)


def test_attention_and_convolutions_are_seen() -> None:
    def attend(f, x):
        q = f.net(x)[None, None]
        return nn.functional.scaled_dot_product_attention(q, q, q)[0, 0]

    assert look(attend).outside > 0
    assert look(lambda f, x: nn.functional.conv1d(f.net(x)[:, None], torch.ones(1, 1, 3), padding=1)[:, 0]).outside > 0
