import math

import numpy as np
import pytest

from fmbench.metrics.monge_gap import monge_gap
from fmbench.transport.distances import squared_distances
from fmbench.transport.sinkhorn_newton import sinkhorn_newton


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def test_optimal_maps_have_no_gap() -> None:
    x = rng().normal(size=(300, 2))
    root = rng(1).normal(size=(2, 2))
    one = x[:, :1]
    for start, end in ((x, 1.5 * x + 3.0), (x, x @ (root @ root.T)), (one, np.exp(one)), (x, x - 2.0)):
        assert monge_gap(start, end) == pytest.approx(0.0, abs=1e-10)


def test_rotation_of_a_gaussian_has_the_closed_form_in_the_limit() -> None:
    # Rotating an isotropic Gaussian moves nothing in law: all of the cost, 4 (1 - cos angle), is waste.
    truth = 4.0 * (1.0 - math.cos(0.7))
    errors = []
    for n in (100, 1500):
        gaps = [monge_gap(x, x @ rotation(0.7).T) for x in (rng(s).normal(size=(n, 2)) for s in range(2))]
        errors.append(truth - float(np.mean(gaps)))
    assert errors[1] == pytest.approx(0.0, abs=0.06)
    assert errors[1] < 0.5 * errors[0]


def test_reversing_a_line_by_hand() -> None:
    # Points 0, 1, 3 sent to 3, 1, 0: cost (9 + 0 + 9) / 3 while the two sets are equal.
    x = np.array([[0.0], [1.0], [3.0]])
    assert monge_gap(x, x[::-1]) == pytest.approx(6.0, rel=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [None, 0.05, 1.0])
def test_the_gap_ignores_translations_and_scales_as_a_squared_length(epsilon: float | None) -> None:
    x = rng().normal(size=(80, 2))
    y = x @ rotation(2.0).T
    gap = monge_gap(x, y, epsilon)
    shift = np.array([3.0, -1.0])
    assert gap > 0.5
    assert monge_gap(x, y + shift, epsilon) == pytest.approx(gap, rel=1e-6)
    assert monge_gap(x, x + shift, epsilon) == pytest.approx(0.0, abs=1e-6)
    scaled = None if epsilon is None else 9.0 * epsilon
    assert monge_gap(3.0 * x, 3.0 * y, scaled) == pytest.approx(9.0 * gap, rel=1e-6)


@pytest.mark.slow
def test_entropic_gap_converges_to_the_exact_one_without_the_log_n_offset() -> None:
    x = rng().normal(size=(100, 2))
    y = x @ rotation(1.0).T * [1.5, 0.5]
    exact = monge_gap(x, y)
    errors = [abs(monge_gap(x, y, epsilon) - exact) for epsilon in (1.0, 0.1, 0.01)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.005
    # The gap as first published is off by at least epsilon log n even for the identity.
    epsilon = 0.1
    found = sinkhorn_newton(squared_distances(x, x), epsilon)
    raw = -(found.transport_cost - epsilon * found.entropy)
    assert epsilon * math.log(100) < raw < 2 * epsilon * math.log(100)
    assert monge_gap(x, x, epsilon) == pytest.approx(0.0, abs=1e-9)


def test_unusable_input_is_named() -> None:
    x = rng().normal(size=(5, 2))
    with pytest.raises(ValueError, match="paired, got 5 and 4 rows"):
        monge_gap(x, x[:4])
    with pytest.raises(ValueError, match="epsilon must be positive"):
        monge_gap(x, x, -1.0)
