"""A number is only served again if it would come out again: what a wrapped model runs is part of what it is (lm-evaluation-harness #4063)."""

import pytest
import torch
from torch import nn

import fmbench

PROTOCOL = """
name = "tiny"
version = 1
summary = "for tests"
tasks = ["gaussian-moons"]
samples = 128
seeds = [0]
samplers = [{ solver = "euler", steps = 8 }]
metrics = ["wasserstein2"]
flow = { samples = 32, steps = 8, probes = 16, probe_steps = 4 }
latency = { batches = [1], seconds = 0.0 }
rank = { vector = "wasserstein2", steps = 8 }
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x, t):
        return self.weight * (0.5 * x + 1)


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(PROTOCOL)
    return path


def measured(call, tiny, out):
    _, found = fmbench.evaluate(fmbench.wrap(Net(), "gaussian-moons", "mine", call), tiny, out=out)
    return found.rows[0].metrics["wasserstein2"].value, found.created, found.seconds


@pytest.mark.slow
def test_a_wrapped_model_that_is_called_otherwise_is_measured_again(tiny, tmp_path):
    first = measured(lambda m, x, t: -m(x, 1 - t), tiny, tmp_path / "out")
    assert measured(lambda m, x, t: -m(x, 1 - t), tiny, tmp_path / "out") == first
    again = measured(lambda m, x, t: m(x, t), tiny, tmp_path / "out")
    assert again[0] != first[0]
    assert again[0] == measured(lambda m, x, t: m(x, t), tiny, tmp_path / "fresh")[0]
    for factor in (2.0, 3.0):
        found = measured(lambda m, x, t, by=factor: by * m(x, t), tiny, tmp_path / "out")
        assert found[0] == measured(lambda m, x, t, by=factor: by * m(x, t), tiny, None)[0]


def test_a_model_that_cannot_be_told_is_never_served(tiny, tmp_path):
    endless = (i for i in range(10**9))

    def call(m, x, t):
        next(endless)
        return m(x, t)

    calls = [measured(call, tiny, tmp_path / "out") and next(endless) for _ in range(2)]
    assert calls[1] - calls[0] > 10
    assert not (tmp_path / "out" / ".units").exists()
