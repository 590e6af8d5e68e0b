"""The nodes are those of the shared reference solve, and their weights integrate."""

from __future__ import annotations

import pytest
import torch

from fmbench.metrics.flow import reference_grid, reference_solve
from fmbench.metrics.nodes import reference_nodes
from fmbench.noise import generator
from fmbench.shapes import squared_norm


def test_nodes_rebuild_the_reference_solve(gaussian_flow) -> None:
    x0 = torch.randn((5, 1, 2, 2), generator=generator(0), dtype=torch.float64)
    solve = reference_solve(gaussian_flow.velocity, x0, 10)
    nodes = list(reference_nodes(gaussian_flow.velocity, x0, 10))
    assert [node.t for node in nodes] == reference_grid(10)[0].tolist()
    assert torch.equal(nodes[0].x, x0) and torch.equal(nodes[-1].x, solve.stop)
    energy = sum(node.weight * squared_norm(node.v) for node in nodes)
    assert energy.numpy() == pytest.approx(solve.energy, rel=1e-14)
    for node in nodes:
        assert torch.equal(node.v, gaussian_flow.velocity(node.x, node.times))
