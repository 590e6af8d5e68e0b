"""Evaluations are counted where they happen, per row, guidance apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fmbench.flows.evaluations import counted_as, counting
from fmbench.methods.cfm import CFM
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition
from fmbench.zoo.model import generate


class Still(nn.Module):
    """A velocity of zero that takes labels."""

    num_classes = 4

    def forward(self, x: Tensor, t: Tensor, *, cond: Condition | None = None) -> Tensor:
        return torch.zeros_like(x)


COSTS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


@pytest.mark.parametrize("solver", COSTS)
@pytest.mark.parametrize(("n", "batch_size"), [(10, 256), (10, 3), (300, 256), (1, 1)])
def test_rows_are_samples_times_steps_times_stages(solver: str, n: int, batch_size: int) -> None:
    made = generate(CFM(Still()), torch.zeros(n, 2), Sampler(solver, 5), batch_size=batch_size)
    assert made.evaluations.rows == {"network": 5 * COSTS[solver] * n, "guidance": 0}


@pytest.mark.parametrize(("guidance", "second"), [(1.0, 0), (2.0, 1), (0.0, 1)])
def test_guidance_is_counted_apart(guidance: float, second: int) -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    made = generate(CFM(Still()), torch.zeros(8, 2), Sampler("heun", 3, guidance=guidance), labels, batch_size=5)
    assert made.evaluations.rows == {"network": 8 * 6, "guidance": second * 8 * 6}


def test_adaptive_evaluations_are_whole_numbers_of_blocks() -> None:
    calls = []
    net = Still()
    net.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    made = generate(CFM(net), torch.zeros(300, 2), Sampler("dopri5"), batch_size=7)
    assert set(calls) == {256, 44}
    assert made.evaluations.network == sum(calls)


def test_keyword_calls_count_and_counting_ends_with_the_block() -> None:
    net = Still()
    with counting({"network": net}, 2) as count:
        net(x=torch.zeros(3, 2), t=torch.zeros(3))
        with counted_as("guidance"):
            net(torch.zeros(2, 2), torch.zeros(2))
        net(torch.zeros(1, 2), torch.zeros(1))
    net(torch.zeros(9, 2), torch.zeros(9))
    assert count.rows == {"network": 4, "guidance": 2}
    assert "forward" not in vars(net)


def test_failures_leave_no_counter_and_no_guidance_behind() -> None:
    net = Still()
    with pytest.raises(RuntimeError, match="stop"), counting({"network": net}, 2), counted_as("guidance"):
        raise RuntimeError("stop")
    assert "forward" not in vars(net)
    with counting({"network": net}, 2) as count:
        net(torch.zeros(3, 2), torch.zeros(3))
    assert count.rows == {"network": 3, "guidance": 0}


def test_nested_counters_both_count() -> None:
    net = Still()
    with counting({"network": net}, 2) as outer:
        net(torch.zeros(1, 2), torch.zeros(1))
        with counting({"network": net}, 2) as inner:
            net(torch.zeros(2, 2), torch.zeros(2))
    assert (outer.network, inner.network) == (3, 2)
