"""Laws of the ODE solvers: order of convergence, evaluations, grids, reversal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fmbench.noise import generator
from fmbench.registry import SOLVERS
from fmbench.shapes import Velocity
from fmbench.solvers.base import RungeKutta, uniform_grid
from fmbench.solvers.dopri5 import Dopri5

DETERMINISTIC = sorted(
    name for name in SOLVERS.all() if not (SOLVERS.resolve(name).stochastic or SOLVERS.resolve(name).stepless)
)
FIXED = [name for name in DETERMINISTIC if not SOLVERS.resolve(name).adaptive]
PUBLISHED = {"euler": (1, 1), "midpoint": (2, 2), "heun": (2, 2), "rk4": (4, 4)}
X0 = torch.linspace(0.3, 1.7, 9, dtype=torch.float64)[:, None]


def riccati(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = -2 t x^2."""
    return -2 * t[:, None] * x**2


def riccati_flow(x0: Tensor) -> Tensor:
    """1/x(1) = 1/x(0) + 1."""
    return x0 / (1 + x0)


def problem(name: str, gaussian_flow) -> tuple[Velocity, Tensor]:
    if name == "gaussian":
        return gaussian_flow.velocity, gaussian_flow.endpoint(X0)
    return riccati, riccati_flow(X0)


def slope(steps: list[int], errors: list[float]) -> float:
    """Least-squares slope of log error against log step."""
    x = torch.tensor(steps).double().reciprocal().log()
    y = torch.tensor(errors).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


STEPS = [32, 64, 128, 256]


@pytest.mark.parametrize("solver", FIXED)
@pytest.mark.parametrize("name", ["riccati", "gaussian"])
@pytest.mark.parametrize("grid", ["uniform", "stretched", "backward"])
def test_error_falls_with_the_claimed_order(solver: str, name: str, grid: str, gaussian_flow) -> None:
    kind = SOLVERS.resolve(solver)
    velocity, stop = problem(name, gaussian_flow)
    errors = []
    for steps in STEPS:
        times = uniform_grid(steps)
        if grid == "stretched":
            times = (times + times**2) / 2
        start, end, times = (stop, X0, times.flip(0)) if grid == "backward" else (X0, stop, times)
        errors.append(float((kind().solve(velocity, start, times) - end).abs().max()))
    found = slope(STEPS, errors)
    assert found > kind.order - 0.15
    # Faster than claimed may happen on one special problem: midpoint shows order 3 on this Gaussian flow, on any grid.
    assert found < kind.order + 0.15 or (name, solver) == ("gaussian", "midpoint")


@pytest.mark.parametrize("solver", FIXED)
def test_evaluations_per_step(solver: str) -> None:
    kind = SOLVERS.resolve(solver)
    calls: list[Tensor] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return riccati(x, t)

    kind().solve(velocity, X0, uniform_grid(7))
    assert len(calls) % 7 == 0
    if solver in PUBLISHED:
        assert (kind.order, len(calls) // 7) == PUBLISHED[solver]
    assert all(t.shape == (len(X0),) and 0 <= t.min() <= t.max() <= 1 + 1e-12 for t in calls)


@pytest.mark.parametrize("solver", FIXED)
def test_there_and_back(solver: str, gaussian_flow) -> None:
    kind = SOLVERS.resolve(solver)
    there = kind().solve(gaussian_flow.velocity, X0, uniform_grid(200))
    back = kind().solve(gaussian_flow.velocity, there, uniform_grid(200).flip(0))
    assert (back - X0).abs().max() < {1: 0.05, 2: 1e-3, 4: 1e-7}.get(kind.order, 1e-3)


@pytest.mark.parametrize("solver", FIXED)
def test_two_grids_in_a_row_are_one(solver: str) -> None:
    kind = SOLVERS.resolve(solver)
    grid = uniform_grid(10)
    half = kind().solve(riccati, X0, grid[:5])
    assert torch.equal(kind().solve(riccati, half, grid[4:]), kind().solve(riccati, X0, grid))


@pytest.mark.parametrize("solver", FIXED)
def test_visitor_sees_every_start(solver: str) -> None:
    kind = SOLVERS.resolve(solver)
    if not issubclass(kind, RungeKutta):
        pytest.skip("no visitor")
    seen: list[tuple[float, Tensor, Tensor]] = []
    grid = uniform_grid(6)
    end = kind().solve(riccati, X0, grid, lambda t, x, v: seen.append((t, x, v)))
    assert [t for t, _, _ in seen] == pytest.approx(grid[:-1].tolist())
    assert torch.equal(seen[0][1], X0)
    for k, (t, x, v) in enumerate(seen):
        assert torch.equal(v, riccati(x, torch.full((len(x),), t, dtype=x.dtype)))
        assert torch.equal(kind().solve(riccati, x, grid[k : k + 2]), seen[k + 1][1] if k < 5 else end)


@pytest.mark.parametrize(("steps", "std"), [(1, 0.0), (2, 0.2), (4, 0.3405), (10, 0.4308)])
def test_euler_shrinks_the_gaussian_as_published(steps: int, std: float, gaussian_flow) -> None:
    """N(0,1) to N(2, .5^2): the map is affine, its slope is the standard deviation (truth .5)."""
    ends = SOLVERS.resolve("euler")().solve(
        gaussian_flow.velocity, torch.tensor([[-1.0], [1.0]]).double(), uniform_grid(steps)
    )
    assert float(ends[1] - ends[0]) / 2 == pytest.approx(std, abs=5e-5)
    assert float(ends.mean()) == pytest.approx(2, abs=1e-12)


def test_one_step_is_exact_on_a_straight_flow(gaussian_flow) -> None:
    for steps in (1, 3):
        end = SOLVERS.resolve("euler")().solve(gaussian_flow.straight, X0, uniform_grid(steps))
        assert torch.allclose(end, gaussian_flow.endpoint(X0), atol=1e-12)


@pytest.mark.parametrize("name", ["riccati", "gaussian"])
def test_dopri5_keeps_its_tolerance(name: str, gaussian_flow) -> None:
    velocity, stop = problem(name, gaussian_flow)
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        times: list[Tensor] = []

        def counted(x: Tensor, t: Tensor, times: list[Tensor] = times) -> Tensor:
            times.append(t)
            return velocity(x, t)

        end = Dopri5(rtol=tolerance, atol=tolerance).solve(counted, X0, uniform_grid(1))
        errors.append(float((end - stop).abs().max()))
        calls.append(len(times))
        assert errors[-1] < 100 * tolerance
    assert calls == sorted(calls)
    assert calls[0] < calls[-1]
    back = Dopri5(1e-9, 1e-9).solve(velocity, stop, torch.tensor([1.0, 0.0]))
    assert torch.allclose(back, X0, atol=1e-6)


def test_dopri5_looks_at_the_ends_of_the_grid_only(gaussian_flow) -> None:
    coarse = Dopri5().solve(gaussian_flow.velocity, X0, uniform_grid(1))
    assert torch.equal(Dopri5().solve(gaussian_flow.velocity, X0, uniform_grid(50)), coarse)


@pytest.mark.parametrize(("rtol", "atol"), [(0.0, 1e-5), (1e-5, -1.0), (math.nan, 1e-5)])
def test_tolerances_must_be_positive(rtol: float, atol: float) -> None:
    with pytest.raises(ValueError, match=f"tolerances must be positive, got rtol={rtol}, atol={atol}"):
        Dopri5(rtol, atol)


BAD = [[], [0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.4], [0.0, 2.0], [-0.1, 1.0], [0.0, math.nan], [[0.0, 1.0]], 0.5]


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("grid", BAD, ids=str)
def test_bad_grids_are_refused(solver: str, grid: list) -> None:
    with pytest.raises(ValueError, match="strictly monotone in"):
        SOLVERS.resolve(solver)().solve(riccati, X0, torch.tensor(grid))


@pytest.mark.parametrize("steps", [0, -3])
def test_a_grid_has_at_least_one_step(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        uniform_grid(steps)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_float32_images_on_any_solver(solver: str) -> None:
    x = torch.randn((3, 1, 4, 4), generator=generator(0))
    end = SOLVERS.resolve(solver)().solve(lambda x, t: x * 0 + 2, x, uniform_grid(4))
    assert end.dtype == torch.float32
    assert torch.allclose(end, x + 2, atol=1e-5)
