"""Classifier-free guidance on real networks and on a flow that is known exactly; dropout that is keyed like everything random."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fmbench.flows.evaluations import counting
from fmbench.methods.base import Batch, VelocityMethod, keyed_dropout
from fmbench.methods.cfm import CFM
from fmbench.nets.dit import DiT
from fmbench.nets.mlp import MLP
from fmbench.nets.unet import UNet
from fmbench.noise import generator
from fmbench.records.sampler import Sampler
from fmbench.shapes import Condition
from fmbench.tasks.mixture import GaussianMixture, MixtureVelocity
from fmbench.zoo.model import generate

SHAPE = (1, 8, 8)
N, CLASSES = 6, 3
NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(SHAPE, CLASSES, width=16, depth=2),
    "unet": lambda: UNet(SHAPE, CLASSES, channels=16, patch=2),
    "dit": lambda: DiT(SHAPE, CLASSES, width=24, depth=2, heads=2),
}


@pytest.fixture(params=NETS)
def method(request: pytest.FixtureRequest, seeded: Callable[..., nn.Module]) -> CFM:
    """CFM around each conditional network, in float64, every parameter moved so that labels speak."""
    method = CFM(seeded(NETS[request.param]))
    random = generator(61)
    for p in method.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=random)
    return method.double().eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    random = generator(62)
    x = torch.randn((N, *SHAPE), generator=random, dtype=torch.float64)
    return x, torch.rand(N, generator=random, dtype=torch.float64), torch.arange(N) % CLASSES


def test_guided_velocities_lie_on_a_line(method: CFM) -> None:
    x, t, labels = inputs()
    null, conditional = method.velocity(x, t), method.velocity(x, t, labels)
    assert not torch.allclose(null, conditional, atol=1e-3)
    assert torch.allclose(method.velocity(x, t, labels, 0.0), null, atol=1e-12)
    assert torch.equal(method.velocity(x, t, labels, 1.0), conditional)
    for scale in (-0.5, 1.5, 4.0):
        ahead = method.velocity(x, t, labels, scale) - conditional
        assert torch.allclose(ahead, (scale - 1) * (conditional - null), atol=1e-10)


def test_samples_without_weight_on_the_label_are_unconditional(method: CFM) -> None:
    x, _, labels = inputs()
    free = generate(method, x, Sampler("heun", 3)).samples
    assert torch.allclose(generate(method, x, Sampler("heun", 3, guidance=0.0), labels).samples, free, atol=1e-6)
    assert not torch.allclose(generate(method, x, Sampler("heun", 3), labels).samples, free, atol=1e-2)


def test_one_doubled_batch_is_the_two_calls(method: CFM) -> None:
    x, t, labels = inputs()
    everything = torch.cat([labels, torch.full_like(labels, CLASSES)])
    conditional, null = method.net(x.repeat(2, 1, 1, 1), t.repeat(2), cond=Condition(everything)).chunk(2)
    guided = method.velocity(x, t, labels, 3.0)
    assert torch.allclose(torch.lerp(null, conditional, 3.0), guided, atol=1e-10)


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 1), (0.0, 2), (2.5, 2)])
def test_the_second_call_is_made_and_counted_only_when_needed(method: CFM, guidance: float, calls: int) -> None:
    x, t, labels = inputs()
    made = []
    method.net.register_forward_pre_hook(lambda _, args, given: made.append(len(given)), with_kwargs=True)
    with counting({"network": method.net}, 4) as count:
        method.velocity(x, t, labels, guidance)
    assert made == [1, 0][:calls]  # with the label, without
    assert count.rows == {"network": N, "guidance": (calls - 1) * N}


def test_adaptive_solvers_count_both(method: CFM) -> None:
    x, _, labels = inputs()
    count = generate(method, x, Sampler("dopri5", guidance=2.0, options={"rtol": 0.5, "atol": 0.5}), labels).evaluations
    assert count.network == count.guidance > N


class TwoClasses(nn.Module):
    """The exact velocities of N(0, I) to each of two Gaussians, and to both together."""

    num_classes = 2

    def __init__(self, source: GaussianMixture, classes: list[GaussianMixture], both: GaussianMixture) -> None:
        super().__init__()
        self.parts = nn.ModuleList(MixtureVelocity(source, target) for target in (*classes, both))

    def forward(self, x: Tensor, t: Tensor, *, cond: Condition | None = None) -> Tensor:
        chosen = torch.full((len(x),), 2) if cond is None else cond.labels
        return torch.stack([part(x, t) for part in self.parts])[chosen, torch.arange(len(x))]


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0, 5.0])
def test_guided_scores_are_those_of_the_tilted_density(guidance: float) -> None:
    """The velocity is affine in the score, so guidance follows the gradient of ``p_t(x|c)^w p_t(x)^(1-w)`` (2207.12598, eq. 6)."""
    means, std, t = torch.tensor([[-1.0, 0.5], [2.0, 1.0]]), 0.6, 0.35
    classes = [GaussianMixture(mean[None], torch.tensor(std)) for mean in means]
    method = CFM(
        TwoClasses(
            GaussianMixture(torch.zeros(1, 2), torch.tensor(1.0)), classes, GaussianMixture(means, torch.tensor(std))
        )
    )
    x = torch.randn((20, 2), generator=generator(63), dtype=torch.float64).requires_grad_()
    labels = torch.arange(20) % 2
    spread = math.sqrt((1 - t) ** 2 + (t * std) ** 2)
    blurred = [GaussianMixture(t * mean[None], torch.tensor(spread)) for mean in means]
    given = torch.stack([density.log_prob(x) for density in blurred])[labels, torch.arange(20)]
    tilted = guidance * given + (1 - guidance) * GaussianMixture(t * means, torch.tensor(spread)).log_prob(x)
    (score,) = torch.autograd.grad(tilted.sum(), x)
    with torch.no_grad():
        velocity = method.velocity(x, torch.full((20,), t), labels, guidance)
    assert torch.allclose((t * velocity - x) / (1 - t), score, atol=1e-6)


def test_entries_that_never_dropped_a_label_are_not_guided() -> None:
    method = CFM(MLP(SHAPE, CLASSES), label_dropout=0.0)
    x, _, labels = inputs()
    with pytest.raises(ValueError, match=r"guidance 2\.0 needs an entry trained with label_dropout > 0"):
        method.sample(x.float(), Sampler("euler", 1, guidance=2.0), labels)
    method.sample(x.float(), Sampler("euler", 1), labels)


@pytest.mark.parametrize("guidance", [math.nan, math.inf])
def test_guidance_is_finite(guidance: float) -> None:
    with pytest.raises(ValueError, match=f"guidance must be a finite number, 1 for none, got {guidance}"):
        Sampler("euler", 1, guidance=guidance)


def labelled(n: int = 16) -> Batch:
    x = torch.randn((n, *SHAPE), generator=generator(64))
    return Batch(x, x.flip(0), torch.arange(n) % CLASSES)


@pytest.mark.parametrize(("label_dropout", "drawn"), [(0.0, 0), (0.3, 16)])
def test_predicting_draws_for_the_labels_only(label_dropout: float, drawn: int, seeded) -> None:
    """Streams of networks without dropout are those of before it existed: one number per label, or none."""
    method = CFM(seeded(NETS["mlp"]), label_dropout=label_dropout).train()
    batch, random, expected = labelled(), generator(65), generator(65)
    method.predict(batch.x0, torch.zeros(16), batch, random)
    torch.rand(drawn, generator=expected)
    assert torch.equal(random.get_state(), expected.get_state())


@pytest.fixture
def dropping(seeded) -> VelocityMethod:
    method = CFM(seeded(lambda: UNet(SHAPE, CLASSES, channels=16, patch=2, dropout=0.5)), label_dropout=0.0)
    random = generator(66)
    for p in method.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=random)
    return method.train()


def test_dropout_is_keyed_by_the_generator(dropping: VelocityMethod) -> None:
    batch, before = labelled(), torch.get_rng_state()
    losses = [float(dropping.loss(batch, generator(67, key)).detach()) for key in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), before)
    t = torch.zeros(16)
    first, again, other = (dropping.predict(batch.x0, t, batch, generator(68, key)) for key in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_evaluation_draws_no_dropout(dropping: VelocityMethod) -> None:
    batch, random = labelled(), generator(69)
    with keyed_dropout(dropping.eval().net, batch.x0.device, random):
        dropping.net(batch.x0, torch.zeros(16), cond=batch.cond)
    assert torch.equal(random.get_state(), generator(69).get_state())


def test_a_failure_leaves_the_global_generator_alone(dropping: VelocityMethod) -> None:
    before = torch.get_rng_state()

    class Stops(nn.Module):
        dropout = 0.1

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            raise RuntimeError(f"stop at {torch.rand(())}")

    dropping.net = Stops()
    batch = labelled()
    with pytest.raises(RuntimeError, match="stop"):
        dropping.loss(batch, generator(70))
    assert torch.equal(torch.get_rng_state(), before)
