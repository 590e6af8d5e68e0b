"""The published figures of one flow, N(0, 1) to N(2, .5^2): loss floor, straightness, reflow and distillation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fmbench.methods.base import Batch, VelocityMethod
from fmbench.methods.cfm import CFM
from fmbench.methods.distill import Distill
from fmbench.methods.fm import FM
from fmbench.methods.oracle import Oracle
from fmbench.methods.rectified_flow import RectifiedFlow, Reflow, teacher_pairs
from fmbench.noise import generator
from fmbench.records.sampler import Sampler
from fmbench.solvers.base import uniform_grid
from fmbench.solvers.rk4 import RK4
from fmbench.tasks.base import StandardNormal, Task
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity

N = 400_000
TIGHT = Sampler("dopri5", options={"rtol": 1e-6, "atol": 1e-6})


class Shifted(nn.Module):
    """A velocity off by a constant."""

    def __init__(self, net: nn.Module, by: float) -> None:
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.net(x, t) + self.by


def independent(n: int, seed: int) -> Batch:
    random = generator(seed)
    return Batch(torch.randn((n, 1), generator=random), 2 + 0.5 * torch.randn((n, 1), generator=random))


@pytest.mark.parametrize("kind", [CFM, FM, RectifiedFlow])
def test_loss_of_the_exact_velocity_is_the_conditional_variance(kind: type[CFM], gaussian_flow) -> None:
    """V = int Var(X1 - X0 | X_t) dt = pi / 4, and an error e of the velocity adds e^2."""
    batch = independent(N, 1)
    floor = float(kind(gaussian_flow.velocity).loss(batch, generator(2)))
    assert floor == pytest.approx(math.pi / 4, abs=0.01)
    assert float(kind(Shifted(gaussian_flow.velocity, 0.5)).loss(batch, generator(2))) == pytest.approx(
        floor + 0.25, abs=0.01
    )


@pytest.mark.slow
def test_cost_saved_by_the_flow_is_straightness_plus_variance(gaussian_flow) -> None:
    """E|X1 - X0|^2 - E|Z1 - Z0|^2 = S + V: 1.0 = .2146 + .7854."""
    batch = independent(N, 3)
    states: list[tuple[float, Tensor, Tensor]] = []
    z0 = torch.randn((20_000, 1), generator=generator(4), dtype=torch.float64)
    z1 = RK4().solve(gaussian_flow.velocity, z0, uniform_grid(200), lambda t, x, v: states.append((t, x, v)))
    bend = [float((z1 - z0 - v).square().mean()) for _, _, v in states]
    bend.append(float((z1 - z0 - gaussian_flow.velocity(z1, torch.ones(len(z1)))).square().mean()))
    straightness = (sum(bend) - (bend[0] + bend[-1]) / 2) / 200
    variance = float(CFM(gaussian_flow.velocity).loss(batch, generator(5)))
    assert straightness == pytest.approx(0.2146, abs=0.01)
    saved = float((batch.x1 - batch.x0).square().mean()) - float((z1 - z0).square().mean())
    assert saved == pytest.approx(1.0, abs=0.04)
    assert saved == pytest.approx(straightness + variance, abs=0.04)


def on_cpu(method: VelocityMethod) -> VelocityMethod:
    """A closed form with a parameter to tell its device."""
    method.marker = nn.Parameter(torch.zeros(1))
    return method


@pytest.fixture
def teacher(gaussian_flow) -> VelocityMethod:
    return on_cpu(CFM(gaussian_flow.velocity))


def bimodal() -> Task:
    target = GaussianMixture(torch.tensor([[-2.5], [1.5]]), torch.tensor([[0.4], [0.6]]), torch.tensor([0.3, 0.7]))
    source = GaussianMixture(torch.zeros(1, 1), torch.tensor(1.0))
    return Task(
        "bimodal",
        1,
        "",
        "vector",
        (1,),
        StandardNormal((1,)),
        target,
        target,
        source_mixture=source,
        target_mixture=target,
    )


def test_closed_forms_can_teach(gaussian_flow) -> None:
    """The oracle is a velocity model without parameters; reflow from it is the cleanest check there is."""
    task = bimodal()
    oracle = Oracle(MixtureVelocity(task.source_mixture, task.target_mixture))
    pairs = teacher_pairs(task, oracle, 300, TIGHT)
    assert pairs.x0.shape == pairs.x1.shape == (300, 1) and pairs.labels is None


def test_one_reflow_makes_a_one_dimensional_coupling_monotone() -> None:
    task = bimodal()
    oracle = on_cpu(Oracle(MixtureVelocity(task.source_mixture, task.target_mixture)))
    pairs = teacher_pairs(task, oracle, 500, TIGHT)
    z0, z1 = pairs.x0, pairs.x1
    sorted_stops = z1[z0[:, 0].argsort(), 0]
    assert (sorted_stops.diff() > -1e-4).all()
    assert float((z1 < 0).double().mean()) == pytest.approx(0.3, abs=0.07)


def test_pairs_are_aligned_and_prefixes_of_each_other(teacher: VelocityMethod, gaussian_flow) -> None:
    pairs = teacher_pairs(gaussian_flow.task, teacher, 600, TIGHT)
    z0, z1 = pairs.x0, pairs.x1
    assert len(z0) == len(z1) == 600
    assert torch.allclose(z1, gaussian_flow.endpoint(z0), atol=1e-4)
    few = teacher_pairs(gaussian_flow.task, teacher, 300, TIGHT)
    assert torch.equal(few.x0, z0[:300])
    assert torch.equal(few.x1, z1[:300])
    assert len(z0.unique()) == 600


def test_reflow_of_deterministic_pairs_is_straight_and_one_step_exact(teacher, gaussian_flow) -> None:
    method = Reflow(gaussian_flow.straight, pairs=512, rtol=1e-6, atol=1e-6)
    source = method.batches(gaussian_flow.task, teacher, 256)
    batch = source(generator(6))
    assert float(method.loss(batch, generator(7))) < 1e-7
    assert float(Reflow(gaussian_flow.velocity, pairs=512).loss(batch, generator(7))) > 0.05
    for steps in (1, 4):
        assert torch.allclose(method.sample(batch.x0, Sampler("euler", steps)), batch.x1, atol=1e-4)


def test_batches_keep_noise_and_sample_together(teacher, gaussian_flow) -> None:
    for kind in (Reflow, Distill):
        source = kind(gaussian_flow.straight, pairs=300, rtol=1e-6, atol=1e-6).batches(
            gaussian_flow.task, teacher, 1000
        )
        batch = source(generator(8))
        assert torch.allclose(batch.x1, gaussian_flow.endpoint(batch.x0), atol=1e-4)
        assert len(batch.x0.unique()) > 250


def test_distillation_at_time_zero_is_the_reflowed_velocity(teacher, gaussian_flow) -> None:
    """The squared loss vanishes for net(z, 0) = Z1 - Z0, which is the straight velocity at t = 0, and is e^2 for an error e."""
    batch = Distill(gaussian_flow.straight, pairs=512, rtol=1e-6, atol=1e-6).batches(gaussian_flow.task, teacher, 256)(
        generator(9)
    )
    assert float(Distill(gaussian_flow.straight).loss(batch, generator(0))) < 1e-7
    assert float(Distill(Shifted(gaussian_flow.straight, 0.3)).loss(batch, generator(0))) == pytest.approx(
        0.09, rel=1e-3
    )
    made = Distill(gaussian_flow.straight).sample(batch.x0, Sampler("euler", 1))
    assert torch.allclose(made, batch.x1, atol=1e-4)
    assert torch.equal(made, RectifiedFlow(gaussian_flow.straight).sample(batch.x0, Sampler("euler", 1)))


@pytest.mark.parametrize(("solver", "steps"), [("euler", 2), ("heun", 1), ("dopri5", 1)])
def test_a_one_step_map_takes_one_euler_step(solver: str, steps: int, gaussian_flow) -> None:
    with pytest.raises(ValueError, match="this model samples with euler and 1 step only"):
        Distill(gaussian_flow.straight).sample(
            torch.zeros(2, 1), Sampler(solver, None if solver == "dopri5" else steps)
        )


@pytest.mark.parametrize("kind", [Reflow, Distill])
def test_teachers_must_have_a_velocity(kind: type, gaussian_flow) -> None:
    for teacher, what in (
        (None, "no teacher"),
        (Distill(gaussian_flow.straight), "a Distill, which has no velocity field"),
    ):
        with pytest.raises(ValueError, match=f"got {what}; set teacher"):
            kind(gaussian_flow.straight, pairs=10).batches(gaussian_flow.task, teacher, 5)
