"""Laws of the sliced distance: closed forms, unbiasedness, control variates."""

import math

import numpy as np
import pytest

from fmbench.transport.exact import wasserstein2
from fmbench.transport.sliced import controlled_mean, directions, projected_costs, quantile_cost, sliced_wasserstein2

CONTROLS = ("none", "lower", "upper")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 60), (37, 23), (1, 9), (12, 6)])
def test_one_dimensional_cost_is_exact_transport(n: int, m: int) -> None:
    a, b = np.sort(rng().normal(size=(3, n))), np.sort(rng(1).normal(size=(3, m)) + 0.5)
    expected = [wasserstein2(p[:, None], q[:, None]) ** 2 for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(quantile_cost(a, b), expected, rtol=1e-12)


def test_blocks_of_directions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rng().normal(size=(2, 50, 3))
    theta = directions(3, 17)
    whole = projected_costs(x, y, theta)
    monkeypatch.setattr("fmbench.transport.sliced.BLOCK_VALUES", 500)
    np.testing.assert_allclose(projected_costs(x, y, theta), whole, rtol=1e-13)


def test_in_one_dimension_it_is_the_exact_distance() -> None:
    x, y = rng().normal(size=(80, 1)), rng(1).normal(size=(50, 1)) * 2.0
    for control in CONTROLS:
        assert sliced_wasserstein2(x, y, 5, control=control) == pytest.approx(wasserstein2(x, y), rel=1e-12)


@pytest.mark.parametrize("control", CONTROLS)
def test_many_directions_give_the_integral_over_the_circle(control: str) -> None:
    # In the plane the mean over the sphere is a one-dimensional integral: a fine grid of angles is the truth.
    x, y = rng().normal(size=(300, 2)) * [2.0, 0.3], rng(1).normal(size=(200, 2)) * [0.5, 1.0] + [0.5, 0.0]
    angles = np.pi * (np.arange(2000) + 0.5) / 2000
    dense = math.sqrt(projected_costs(x, y, np.stack([np.cos(angles), np.sin(angles)], axis=1)).mean())
    assert sliced_wasserstein2(x, y, 8000, rng(3), control) == pytest.approx(dense, rel=0.02)


@pytest.mark.parametrize("control", ["lower", "upper"])
@pytest.mark.parametrize("dim", [2, 20])
def test_a_pure_translation_is_exact_from_two_directions_on(control: str, dim: int) -> None:
    x = rng().normal(size=(100, dim)) * (1.0 if control == "lower" else 0.0)
    shift = rng(1).normal(size=dim)
    expected = float(np.linalg.norm(shift)) / math.sqrt(dim)
    for seed in range(5):
        assert sliced_wasserstein2(x, x + shift, 2, rng(seed), control) == pytest.approx(expected, rel=1e-10)
    assert abs(sliced_wasserstein2(x, x + shift, 2, rng(0)) / expected - 1.0) > 0.01


def spread(x: np.ndarray, y: np.ndarray, control: str) -> tuple[float, float]:
    """Relative standard deviation and bias of SW2^2 with 10 directions, over 400 draws."""
    truth = sliced_wasserstein2(x, y, 20_000, rng(99)) ** 2
    values = np.array([sliced_wasserstein2(x, y, 10, rng(seed), control) ** 2 for seed in range(400)])
    return float(values.std() / truth), float(values.mean() / truth - 1.0)


@pytest.mark.slow
def test_control_variates_reduce_the_variance() -> None:
    x = rng().normal(size=(200, 10))
    y = rng(1).normal(size=(200, 10)) * np.linspace(0.5, 2.0, 10) + 1.0
    plain, lower, upper = (spread(x, y, control) for control in CONTROLS)
    assert lower[0] < 0.7 * plain[0]
    assert upper[0] < 0.7 * plain[0]
    assert max(abs(plain[1]), abs(lower[1]), abs(upper[1])) < 0.05


def test_control_of_a_known_function_is_exact() -> None:
    control = rng().random(30)
    assert controlled_mean(2.0 * control + 1.0, control, 0.5) == pytest.approx(2.0, rel=1e-12)
    values = rng(1).random(30)
    assert controlled_mean(values, np.full(30, 0.7), 0.5) == values.mean()


def test_directions_are_uniform_on_the_sphere_and_fixed() -> None:
    theta = directions(4, 20_000, rng())
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(theta.T @ theta / len(theta), np.eye(4) / 4, atol=0.01)
    assert np.array_equal(directions(3, 8), directions(3, 8))
    assert not np.array_equal(directions(3, 8, rng(0)), directions(3, 8, rng(1)))


def test_metric_laws() -> None:
    x, y = rng().normal(size=(90, 3)), rng(1).normal(size=(60, 3)) * 2.0 + 1.0
    value = sliced_wasserstein2(x, y)
    assert sliced_wasserstein2(x, x[rng().permutation(90)]) == pytest.approx(0.0, abs=1e-12)
    assert sliced_wasserstein2(y, x) == pytest.approx(value, rel=1e-12)
    assert sliced_wasserstein2(3.0 * x, 3.0 * y) == pytest.approx(3.0 * value, rel=1e-12)
    assert sliced_wasserstein2(x + 5.0, y + 5.0) == pytest.approx(value, rel=1e-10)
    assert value < wasserstein2(x, y)


def test_unusable_input_is_named() -> None:
    x = rng().normal(size=(5, 2))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sliced_wasserstein2(x, x, 0)
    with pytest.raises(ValueError, match="none, lower, upper, got 'both'"):
        sliced_wasserstein2(x, x, control="both")
