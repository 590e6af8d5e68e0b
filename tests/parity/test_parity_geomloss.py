"""Parity with geomloss 0.3: entropic cost and Sinkhorn divergence.

``geomloss.ot.solve_sample`` takes our cost and epsilon as they are. It has no test of convergence: ``max_iter`` sweeps
are spread over an annealing from the diameter down to epsilon, which leaves an error of order ``1 / max_iter^2``: 4e-5
after a hundred, 1e-6 after six hundred. The limit in ``1 / max_iter^2`` agrees with ours to 1e-6 or better.
``SamplesLoss`` has cost ``|x - y|^2 / 2`` and ``epsilon = blur^2``, so half of our value at twice the epsilon, and anneals
by a ratio: with ``scaling = 0.99`` it is 1e-3 off.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmbench.transport.entropic import entropic_cost, sinkhorn_divergence
from fmbench.transport.sinkhorn_newton import sinkhorn_newton

geomloss = pytest.importorskip("geomloss")
solver = pytest.importorskip("geomloss.ot")


def solved(x: np.ndarray, y: np.ndarray, epsilon: float, debias: bool, iterations: int) -> float:
    points = (torch.from_numpy(x), torch.from_numpy(y))
    return float(solver.solve_sample(*points, reg=epsilon, debias=debias, max_iter=iterations).value)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("epsilon", [1.0, 5.0])
@pytest.mark.parametrize("d", [2, 5])
def test_cost_and_divergence_are_its_limit(d, epsilon, debias, clouds) -> None:
    x, y = clouds(80, 60, d)
    ours = (sinkhorn_divergence if debias else entropic_cost)(x, y, epsilon, sinkhorn_newton)
    coarse, fine = (solved(x, y, epsilon, debias, k) for k in (200, 400))
    assert 3.0 < (coarse - ours) / (fine - ours) < 9.0
    assert abs(fine - ours) < 1e-5 * ours
    assert (4 * fine - coarse) / 3 == pytest.approx(ours, rel=1e-6)


def test_divergence_of_the_loss_layer_at_its_end_of_annealing(clouds) -> None:
    x, y = clouds(80, 60, 2)
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.5, scaling=0.99, backend="tensorized")
    theirs = 2.0 * float(loss(torch.from_numpy(x), torch.from_numpy(y)))
    assert sinkhorn_divergence(x, y, 0.5) == pytest.approx(theirs, rel=2e-3)
