"""Laws of mode coverage: exact samples, dropped modes, wrong weights, overlapping components, rotated frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmbench.metrics.modes import modes
from fmbench.tasks.mixture import GaussianMixture

MEANS = np.array([[-6.0, 0.0], [6.0, 0.0], [0.0, 8.0]])
WEIGHTS = np.array([0.2, 0.3, 0.5])


def draw(counts: list[int], seed: int = 0, stds: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [m + stds * rng.normal(size=(c, 2)) for m, c in zip(MEANS, counts, strict=True)]
    return np.concatenate(parts)


def test_separated_modes_are_counted() -> None:
    found = modes(draw([200, 300, 500]), MEANS, 1.0, WEIGHTS)
    assert found.weights == pytest.approx(WEIGHTS, abs=1e-4)
    assert found.weight_error < 1e-4
    assert found.coverage == 1
    # The ellipsoids hold 99 % of every component.
    assert found.high_quality == pytest.approx(0.99, abs=3 * np.sqrt(0.99 * 0.01 / 1000))


def test_dropped_and_distorted_modes() -> None:
    dropped = modes(draw([400, 600, 0]), MEANS, 1.0, WEIGHTS)
    assert dropped.covered.tolist() == [True, True, False]
    assert dropped.coverage == pytest.approx(2 / 3)
    assert dropped.weight_error == pytest.approx(0.5, abs=1e-4)
    swapped = modes(draw([500, 300, 200]), MEANS, 1.0, WEIGHTS)
    assert swapped.coverage == 1
    assert swapped.weight_error == pytest.approx(0.3, abs=1e-4)


@pytest.mark.parametrize(("count", "covered"), [(5, False), (60, True)])
def test_a_few_strays_do_not_cover_a_mode(count: int, covered: bool) -> None:
    assert modes(draw([200, 300, count]), MEANS, 1.0, WEIGHTS).covered[2] == covered


def test_samples_between_modes_are_of_no_quality() -> None:
    found = modes(np.tile([0.0, 2.0], (50, 1)), MEANS, 1.0, WEIGHTS)
    assert found.high_quality == 0
    assert found.coverage == 0
    assert found.inside.sum() == 0


def test_weights_are_unbiased_however_much_components_overlap() -> None:
    # Counting hard assignments would give the broad minor component far less than its weight.
    means, stds, weights = np.array([[0.0], [0.5]]), np.array([[1.0], [3.0]]), np.array([0.7, 0.3])
    rng = np.random.default_rng(0)
    n = 20_000
    component = rng.random(n) < 0.3
    x = np.where(component, 0.5 + 3 * rng.normal(size=n), rng.normal(size=n))[:, None]
    found = modes(x, means, stds, weights)
    assert found.weights == pytest.approx(weights, abs=4 * 0.5 / np.sqrt(n))
    assert found.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("dim", [2, 16])
def test_agrees_with_the_mixture_task_in_a_rotated_frame(dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    frame = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    means = torch.zeros(2, dim)
    means[0, 0], means[1, 0] = -5, 5
    stds = torch.linspace(0.3, 1.2, dim).expand(2, dim)
    mixture = GaussianMixture(means, stds, torch.tensor([1.0, 3.0]), frame)
    n = 4000
    x = mixture.sample(n, generator).double().numpy()
    found = modes(x, means.numpy(), stds.numpy(), np.array([1.0, 3.0]), frame.numpy())
    assert found.weights == pytest.approx([0.25, 0.75], abs=4 * np.sqrt(0.25 * 0.75 / n))
    assert found.high_quality == pytest.approx(0.99, abs=4 * np.sqrt(0.99 * 0.01 / n))
    assert found.coverage == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stds": 0.0}, "stds must be positive, got 0.0"),
        ({"weights": np.array([0.5, 0.5])}, "weights must be 3 positive numbers"),
        ({"weights": np.array([0.5, 0.5, 0.0])}, "weights must be 3 positive numbers"),
        (
            {"frame": np.array([[1.0, 0.1], [0.0, 1.0]])},
            "frame must be orthogonal, but Q.T Q differs from the identity by 0.1",
        ),
        ({"frame": np.eye(3)}, "frame must be a 2 x 2 matrix"),
        ({"level": 1.0}, "level must be in"),
        ({"share": 0.0}, "share in"),
        ({"means": np.zeros((3, 5))}, "same dimension, got 2 and 5"),
    ],
)
def test_refuses_in_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modes(**{"x": draw([3, 3, 3]), "means": MEANS, "stds": 1.0, "weights": WEIGHTS, **arguments})
