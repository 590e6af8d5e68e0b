"""Average velocities: their closed form on a Gaussian, the limit in which they are flow matching, and what a wrong tangent does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fmbench.flows.average_velocity import AverageVelocity
from fmbench.flows.evaluations import counting
from fmbench.methods.average_velocity import AverageVelocityMethod
from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.methods.imf import IMF
from fmbench.methods.meanflow import MeanFlow
from fmbench.methods.shortcut import Shortcut
from fmbench.methods.split_meanflow import SplitMeanFlow
from fmbench.nets.mlp import MLP
from fmbench.noise import Draws, generator
from fmbench.records.sampler import Sampler
from fmbench.shapes import Points, Times

MEAN, DEVIATION = 2.0, 0.5
SQUARED = {"times": "uniform", "power": 0.0, "apart": 0.7}
"""The mean-seeking loss: the minimiser of the adaptive one is another in a single dimension."""


class Exact(nn.Module):
    """u of N(0, 1) to N(2, 0.5^2) on independent pairs, plus ``theta`` times a function that the data do not know.

    Trajectories keep their place in the marginal: ``x_t = t m + sd_t / sd_r (x_r - r m)`` with ``sd_t^2 = (1-t)^2 + t^2 S^2``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Times, *, r: Times | None = None, cond: object = None) -> Tensor:
        r = t if r is None else r
        r, t = r[:, None], t[:, None]
        width = [((1 - s) ** 2 + s**2 * DEVIATION**2).sqrt() for s in (r, t)]
        slope = (r * DEVIATION**2 - (1 - r)) / width[0] ** 2
        velocity = MEAN + slope * (x - r * MEAN)
        apart = torch.where(t > r, t - r, torch.ones_like(t))
        mean = (t * MEAN + width[1] / width[0] * (x - r * MEAN) - x) / apart
        return torch.where(t > r, mean, velocity) + self.theta * torch.sin(x + 2 * t - r)


def ends(count: int, seed: int) -> Batch:
    x0, x1 = (torch.randn((count, 1), generator=generator(seed, k), dtype=torch.float64) for k in (0, 1))
    return Batch(x0, MEAN + DEVIATION * x1)


def column(*values: float) -> list[Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def test_the_closed_form_is_the_mean_of_the_velocity() -> None:
    """-u of the published case with time turned round; the mean by solving the ODE; the identity of MeanFlow; additivity."""
    net, (x, r, t, s) = Exact(), column(0.7, 0.1, 0.8, 0.45)
    x = x[:, None]
    with torch.no_grad():
        u = net(x, t, r=r)
        assert float(u) == pytest.approx(1.640099, abs=1e-6)
        place, steps = x.clone(), 2000
        for k in range(steps):
            middle = r + (k + 0.5) * (t - r) / steps
            half = place + (t - r) / steps / 2 * net(place, middle - (t - r) / steps / 2)
            place = place + (t - r) / steps * net(half, middle)
        assert float((place - x) / (t - r)) == pytest.approx(float(u), abs=1e-6)
        change = torch.func.jvp(lambda x, r: net(x, t, r=r), (x, r), (net(x, r), torch.ones_like(r)))[1]
        assert float(net(x, r) + (t - r) * change - u) == pytest.approx(0, abs=1e-12)
        first = net(x, s, r=r)
        second = net(x + (s - r) * first, t, r=s)
        assert float((s - r) * first + (t - s) * second - (t - r) * u) == pytest.approx(0, abs=1e-12)


def pull(method: AverageVelocityMethod) -> tuple[float, float]:
    """Mean and standard error over batches of the derivative of the loss away from the exact average velocity."""
    found = []
    for k in range(40):
        method.zero_grad()
        method.loss(ends(2000, k), generator(1, k)).backward()
        found.append(float(method.net.theta.grad))
    values = torch.tensor(found)
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


EXACT = {
    "meanflow": lambda: MeanFlow(Exact(), **SQUARED),
    "imf": lambda: IMF(Exact(), **SQUARED),
    "split-meanflow": lambda: SplitMeanFlow(Exact(), 0.7),
    "shortcut": lambda: Shortcut(Exact(), 0.7, finest=1024),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_exact_average_velocity_is_a_fixed_point(name: str) -> None:
    mean, error = pull(EXACT[name]())
    assert error < 0.02
    assert abs(mean) < 4 * error


def with_tangents(monkeypatch: pytest.MonkeyPatch, along: float, time: float) -> None:
    right = torch.func.jvp

    def wrong(function, at, tangents):
        return right(function, at, (along * tangents[0], time * tangents[1]))

    monkeypatch.setattr("torch.func.jvp", wrong)


@pytest.mark.parametrize("kind", [MeanFlow, IMF])
@pytest.mark.parametrize(("along", "time"), [(1, 0), (0, 1), (1, -1)])
def test_with_another_tangent_it_is_none(kind: type[MeanFlow], along: float, time: float, monkeypatch) -> None:
    with_tangents(monkeypatch, along, time)
    mean, error = pull(kind(Exact(), **SQUARED))
    assert abs(mean) > 8 * error


def one_jump(kind: type[MeanFlow], seed: int = 0) -> tuple[float, float]:
    """Mean and deviation of one jump, trained for a while."""
    torch.manual_seed(seed)
    method = kind(MLP((1,), width=48, depth=2, activation="silu", second_time=True), **SQUARED)
    optimiser = torch.optim.Adam(method.parameters(), lr=4e-3)
    for step in range(700):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / 700)
        optimiser.zero_grad()
        batch = ends(512, 100 + step)
        method.loss(Batch(batch.x0.float(), batch.x1.float()), generator(2, step)).backward()
        optimiser.step()
    with torch.no_grad():
        x = method.sample(Draws.given(ends(4000, 7).x0.float()), Sampler("euler", 1))
    return float(x.mean()), float(x.std())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MeanFlow, IMF])
def test_one_jump_learns_the_gaussian_and_with_another_tangent_does_not(kind, monkeypatch) -> None:
    mean, deviation = one_jump(kind)
    assert abs(mean - MEAN) + abs(deviation - DEVIATION) < 0.2
    with_tangents(monkeypatch, 1, 0)
    mean, deviation = one_jump(kind)
    assert abs(mean - MEAN) + abs(deviation - DEVIATION) > 0.4


class Same:
    """The same times whenever asked."""

    def __init__(self, count: int) -> None:
        self.times = torch.rand(count, generator=generator(3))

    def draw(self, count: int, generator: torch.Generator) -> Times:
        return self.times


@pytest.mark.parametrize("kind", [MeanFlow, IMF, SplitMeanFlow, Shortcut])
def test_with_equal_times_it_is_flow_matching(kind: type[AverageVelocityMethod], seeded, monkeypatch) -> None:
    net = seeded(lambda: MLP((2,), width=16, depth=2, second_time=True))
    batch = Batch(*(torch.randn((64, 2), generator=generator(k)) for k in (0, 1)))
    found = []
    for method in (CFM(net), kind(net, apart=0.0, **({"power": 0.0} if issubclass(kind, MeanFlow) else {}))):
        method.law = Same(64)
        monkeypatch.setattr(Shortcut, "steps", lambda *_: (Same(64).times, torch.zeros(64)))
        net.zero_grad()
        loss = method.loss(batch, generator(5))
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    for ours, theirs in zip(found[1][1], found[0][1], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_imf_is_meanflow_along_the_velocity_of_the_network() -> None:
    """Where the pair's velocity is the marginal one, as for data in one point, the two are one."""
    net = Exact()
    x0 = torch.randn((50, 1), generator=generator(4), dtype=torch.float64)
    batch = Batch(x0, ends(50, 1).x1)
    mean, improved = (kind(net, **SQUARED) for kind in (MeanFlow, IMF))
    v, r = batch.x1 - batch.x0, torch.full((50,), 0.4, dtype=torch.float64)
    assert torch.equal(mean.direction(x0, r, v, None), v)
    assert torch.equal(improved.direction(x0, r, v, None), net(x0, r).detach())
    assert not improved.direction(x0, r, v, None).requires_grad


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [MeanFlow, SplitMeanFlow, Shortcut])
def test_jumps_of_the_exact_map_are_exact_and_counted(kind, steps: int) -> None:
    """x0 -> m + S x0 in any number of jumps; an Euler step of the velocity shrinks it to a point."""
    method, x0 = kind(Exact()).eval(), ends(30, 5).x0
    with torch.no_grad(), counting(method.networks(), x0.ndim) as count:
        x = method.sample(Draws.given(x0), Sampler("euler", steps))
    assert count.network == steps * 30
    assert torch.allclose(x, MEAN + DEVIATION * x0, atol=1e-9 if kind is not Shortcut else 0.05)


def test_other_solvers_integrate_the_velocity() -> None:
    method, x0 = MeanFlow(Exact()).eval(), ends(30, 6).x0
    with torch.no_grad():
        fine = method.sample(Draws.given(x0), Sampler("heun", 100))
        coarse = method.sample(Draws.given(x0), Sampler("midpoint", 1))
    assert torch.allclose(fine, MEAN + DEVIATION * x0, atol=1e-3)
    assert not torch.allclose(coarse, fine, atol=0.1)
    assert {"velocity", "flow_map", "inverse", "density"} <= method.capabilities
    with pytest.raises(ValueError, match="guidance needs"):
        method.sample(Draws.given(x0), Sampler("euler", 1, guidance=2.0))
    with pytest.raises(ValueError, match="guidance must be 1"):
        method.velocity(x0, torch.zeros(30), guidance=2.0)


def test_a_shortcut_jumps_by_powers_of_one_half() -> None:
    method = Shortcut(Exact())
    assert [n for n in range(1, 20) if method.accepts(Sampler("euler", n)) is None] == [1, 2, 4, 8, 16]
    assert "powers of 1/2" in (method.accepts(Sampler("euler", grid=(0.0, 0.3, 1.0))) or "")
    assert method.accepts(Sampler("dopri5")) is None
    t, half = method.steps(ends(4000, 0), generator(8))
    short = half > 0
    assert short.tolist() == [True] * 1000 + [False] * 3000
    assert set((2 * half[short]).log2().tolist()) == {float(-k) for k in range(7)}
    assert torch.equal(t[short] % (2 * half[short]), torch.zeros(int(short.sum())))
    assert bool((t + 2 * half <= 1).all())


class Seen(nn.Module):
    """Remembers the spans it was asked for."""

    def forward(self, x: Tensor, t: Times, *, r: Times, cond: object = None) -> Tensor:
        self.span = t - r
        return x


def test_the_shortest_step_of_a_shortcut_is_the_velocity() -> None:
    net = Seen()
    method, x = Shortcut(net, finest=128), torch.zeros(3, 2)
    for steps, expected in ((256, 0.0), (128, 0.0), (64, 1 / 64), (1, 1.0)):
        method.sample(Draws.given(x), Sampler("euler", steps))
        assert torch.allclose(net.span, torch.full((3,), expected))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MeanFlow(Exact(), apart=1.5), r"apart must be in \[0, 1\], got 1.5"),
        (lambda: MeanFlow(Exact(), power=-1.0), "power must be at least 0"),
        (lambda: MeanFlow(Exact(), times="cosine"), "times must be one of uniform, logit-normal, got 'cosine'"),
        (lambda: SplitMeanFlow(Exact(), time_std=0.0), "time_std positive, got 0.0 and 0.0"),
        (lambda: Shortcut(Exact(), finest=100), "finest must be a power of 2 from 2 on, got 100"),
    ],
)
def test_parameters_are_checked(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_every_average_velocity_is_one() -> None:
    class Linear(AverageVelocity):
        def average(self, x: Points, r: Times, t: Times, cond: object = None) -> Points:
            return x

    x = torch.randn((4, 2), generator=generator(9))
    assert torch.allclose(Linear(nn.Identity()).sample(Draws.given(x), Sampler("euler", 2)), 2.25 * x)


class Nothing(nn.Module):
    """The map that stays where it is."""

    def forward(self, x: Tensor, t: Times, *, r: Times, cond: object = None) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("kind", [SplitMeanFlow, Shortcut])
def test_without_flow_matching_nothing_is_as_consistent_as_the_data(kind: type[AverageVelocityMethod]) -> None:
    batch = ends(100, 10)
    assert float(kind(Nothing(), apart=1.0).loss(batch, generator(0))) == 0
    assert float(kind(Nothing(), apart=0.5).loss(batch, generator(0))) > 1
