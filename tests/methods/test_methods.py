"""Laws over all registered methods, and the limits in which one method is another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fmbench.features.classifier import Classifier
from fmbench.flows.average_velocity import AverageVelocity
from fmbench.methods.base import Batch, Method, VelocityMethod
from fmbench.methods.cfm import CFM
from fmbench.methods.fm import FM
from fmbench.methods.ot_cfm import OTCFM
from fmbench.methods.rectified_flow import RectifiedFlow
from fmbench.methods.sb_cfm import SBCFM
from fmbench.methods.w_cfm import WCFM
from fmbench.nets.cnn import CNN
from fmbench.nets.mlp import MLP
from fmbench.noise import Draws, generator
from fmbench.records.sampler import Sampler
from fmbench.records.tables import parameters_of
from fmbench.registry import METHODS, TASKS, trainable

# What a method needs when it is not a velocity field on vectors: its task and network.
SPECIAL = {"classifier": ("digits", lambda: CNN((1, 8, 8), num_classes=10, channels=4, features=8))}
TRAINED = [name for name in METHODS.all() if name not in ("oracle", "published")]


def vector_net(**more: bool) -> nn.Module:
    return MLP((2,), width=16, depth=2, **more)


def two_times() -> nn.Module:
    return vector_net(second_time=True)


@pytest.fixture
def make(seeded: Callable[..., nn.Module]) -> Callable[[str], tuple[Method, Callable[[torch.Generator], Batch]]]:
    """A method on its tiny task with its source of batches; teachers are a freshly initialised CFM."""

    def build(name: str) -> tuple[Method, Callable[[torch.Generator], Batch]]:
        kind = trainable(name)
        usual = two_times if issubclass(kind, AverageVelocity) else vector_net
        task_name, net = SPECIAL.get(name, ("gaussian-8gaussians", usual))
        # A loss with adaptive weights, of power 1, is about 1 whatever the error is.
        small = {"pairs": 256, "power": 0.0}
        settings = {k: small[k] for k in small.keys() & parameters_of(kind, ("self", "net"))}
        method = seeded(lambda: kind(net(), **settings))
        teacher = seeded(lambda: CFM(vector_net()), 1) if kind.needs_base else None
        return method, method.batches(TASKS.resolve(task_name)(), teacher, 64)

    return build


@pytest.mark.parametrize("name", TRAINED)
def test_loss_is_finite_repeatable_and_falls(name: str, make) -> None:
    method, source = make(name)
    batch = source(generator(1))
    held_out = [(source(generator(2, k)), k) for k in range(8)]

    def score() -> float:
        with torch.no_grad():
            return sum(float(method.loss(b, generator(3, k))) for b, k in held_out) / len(held_out)

    loss = method.loss(batch, generator(4))
    assert loss.shape == ()
    assert loss.isfinite()
    assert torch.equal(loss, method.loss(batch, generator(4)))
    before = score()
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(60):
        optimiser.zero_grad()
        method.loss(source(generator(5, step)), generator(6, step)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
        optimiser.step()
    assert score() < 0.97 * before


@pytest.mark.parametrize("name", TRAINED)
def test_batches_depend_on_the_generator_only(name: str, make) -> None:
    _, source = make(name)
    one, again, other = source(generator(1)), source(generator(1)), source(generator(2))
    assert torch.equal(one.x0, again.x0)
    assert torch.equal(one.x1, again.x1)
    assert not torch.equal(one.x1, other.x1)
    assert len(one.x0) == len(one.x1) == 64


@pytest.mark.parametrize("name", [n for n in TRAINED if n != "classifier"])
def test_samples_are_shaped_like_noise_and_repeatable(name: str, make) -> None:
    method, _ = make(name)
    noise = torch.randn((5, 2), generator=generator(7))
    budget = method.default if method.accepts(Sampler("euler", 3)) else Sampler("euler", 3)
    first = method.sample(noise, budget)
    assert first.shape == noise.shape
    assert torch.equal(method.sample(noise, budget), first)
    assert torch.allclose(method.sample(Draws.given(noise).rows(2, 5), budget), first[2:], atol=1e-6)


@pytest.mark.parametrize("name", sorted(METHODS.all()))
def test_listings_have_a_summary_and_a_reference(name: str) -> None:
    kind = METHODS.resolve(name)
    assert issubclass(kind, Method)
    assert kind.summary
    assert kind.objective
    assert kind.reference.startswith("arXiv:") or name == "classifier"


def result(method: Method, batch: Batch, seed: int = 8) -> tuple[float, list[Tensor]]:
    method.zero_grad()
    loss = method.loss(batch, generator(seed))
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in method.parameters() if p.grad is not None]


def same(left: tuple[float, list[Tensor]], right: tuple[float, list[Tensor]], atol: float = 1e-6) -> bool:
    pairs = zip(left[1], right[1], strict=True)
    return abs(left[0] - right[0]) < atol and all(torch.allclose(a, b, atol=atol) for a, b in pairs)


def pairs(n: int = 64, seed: int = 9) -> Batch:
    random = generator(seed)
    return Batch(torch.randn((n, 2), generator=random), 2 * torch.randn((n, 2), generator=random) + 1)


@pytest.fixture
def net(seeded) -> nn.Module:
    return seeded(vector_net)


def test_fm_and_rectified_flow_without_blur_are_cfm(net: nn.Module) -> None:
    reference = result(CFM(net, 0.0), pairs())
    assert same(result(FM(net, 0.0), pairs()), reference)
    assert same(result(RectifiedFlow(net), pairs()), reference)
    assert not same(result(FM(net, 0.3), pairs()), reference)
    assert not same(result(CFM(net, 0.3), pairs()), reference)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_w_cfm_with_infinite_epsilon_is_cfm(net: nn.Module, sigma: float) -> None:
    reference = result(CFM(net, sigma), pairs())
    assert same(result(WCFM(net, epsilon=1e9, sigma=sigma), pairs()), reference)
    assert not same(result(WCFM(net, epsilon=1.0, sigma=sigma), pairs()), reference)


def test_ot_cfm_is_cfm_on_one_pair_and_on_pairs_already_optimal(net: nn.Module) -> None:
    assert same(result(OTCFM(net, 0.1), pairs(1)), result(CFM(net, 0.1), pairs(1)))
    batch = pairs()
    optimal = Batch(batch.x0, 2 * batch.x0 + 1)
    assert same(result(OTCFM(net, 0.1), optimal), result(CFM(net, 0.1), optimal))
    assert not same(result(OTCFM(net, 0.1), batch), result(CFM(net, 0.1), batch))


def test_sb_cfm_with_a_thin_bridge_is_ot_cfm(net: nn.Module) -> None:
    """CFM goes on with the generator the plan has drawn from, so that both see the same times."""
    x0 = torch.arange(12.0)[:, None].expand(12, 2)
    batch = Batch(x0, x0.flip(0) + 0.2)
    thin = SBCFM(net, sigma=0.02)
    random = generator(8)
    paired = thin.pair(batch, random)
    assert torch.equal(paired.x1, OTCFM(net).pair(batch, random).x1)
    expected = float(CFM(net, 0.0).loss(paired, random).detach())
    assert float(thin.loss(batch, generator(8)).detach()) == pytest.approx(expected, rel=0.05)


def test_sb_cfm_with_a_wide_bridge_pairs_at_random(net: nn.Module) -> None:
    batch = pairs(200)
    partners = SBCFM(net, sigma=100.0).pair(batch, generator(10)).x1
    mean_cost = (batch.x0[:, None] - batch.x1).square().sum(-1).mean()
    assert float((partners - batch.x0).square().sum(1).mean()) == pytest.approx(float(mean_cost), rel=0.2)


@pytest.mark.parametrize("kind", [OTCFM, SBCFM])
def test_labels_travel_with_the_data(kind: type[CFM], net: nn.Module) -> None:
    batch = pairs()
    known = {tuple(x.tolist()): k for k, x in enumerate(batch.x1)}
    paired = kind(net).pair(Batch(batch.x0, batch.x1, torch.arange(64)), generator(11))
    assert paired.labels is not None
    assert [known[tuple(x.tolist())] for x in paired.x1] == paired.labels.tolist()
    assert paired.labels.tolist() != list(range(64))


class Recorder(nn.Module):
    """A conditional network that remembers its labels and answers with them."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.labels: Tensor | None = None

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.labels = torch.full((len(x),), self.num_classes) if labels is None else labels
        return self.labels[:, None].to(x) * (1 + x)


def labelled(n: int) -> Batch:
    batch = pairs(n)
    return Batch(batch.x0, batch.x1, torch.arange(n) % 10)


@pytest.mark.parametrize("kind", [CFM, FM, OTCFM, SBCFM, WCFM, RectifiedFlow])
def test_label_dropout_really_hides_labels(kind: type[CFM]) -> None:
    net = Recorder()
    method = kind(net, label_dropout=0.3)
    batch = labelled(200)
    seen, dropped = [], []
    for k in range(10):
        expected = method.pair(batch, generator(12, k)).labels
        method.loss(batch, generator(12, k))
        assert net.labels is not None
        hidden = net.labels == 10
        assert torch.equal(net.labels[~hidden], expected[~hidden])
        seen.append(net.labels)
        dropped.append(hidden)
    assert float(torch.cat(dropped).double().mean()) == pytest.approx(0.3, abs=0.05)
    assert not torch.equal(dropped[0], dropped[1])
    assert batch.labels is not None
    assert batch.labels.max() < 10  # the batch itself is left alone
    method.label_dropout = 0.0
    method.loss(batch, generator(12))
    assert (net.labels < 10).all()


def test_guidance_is_a_line_through_the_two_velocities() -> None:
    method = CFM(Recorder())
    batch = labelled(20)
    t = torch.full((20,), 0.3)

    def velocity(w: float) -> Tensor:
        return method.velocity(batch.x0, t, batch.labels, w)

    assert torch.equal(velocity(1.0), method.net(batch.x0, t, batch.labels))
    assert torch.allclose(velocity(0.0), method.net(batch.x0, t))
    for w in (-1.0, 0.5, 2.0, 7.0):
        assert torch.allclose(velocity(w), (1 - w) * velocity(0.0) + w * velocity(1.0), atol=1e-4)
    assert not torch.allclose(velocity(2.0), velocity(1.0))
    guided = method.sample(batch.x0, Sampler("euler", 1, guidance=2.0), batch.labels)
    start = method.velocity(batch.x0, torch.zeros(20), batch.labels, 2.0)
    assert torch.allclose(guided, batch.x0 + start)


def test_guidance_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"guidance 2\.0 needs a class-conditional entry"):
        CFM(Recorder()).sample(torch.zeros(2, 2), Sampler("euler", 1, guidance=2.0))


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_a_budget_has_at_least_one_step(steps: float) -> None:
    with pytest.raises(ValueError, match=f"at least 1 and at most 100000, got {steps}"):
        Sampler(steps=steps)  # type: ignore[arg-type]


def test_the_oracle_is_exact_and_not_trained() -> None:
    kind = METHODS.resolve("oracle")
    task = TASKS.resolve("gaussian-8gaussians")()
    oracle = kind(kind.build_net(task, {}, False))
    assert isinstance(oracle, VelocityMethod)
    assert not list(oracle.parameters())
    with pytest.raises(ValueError, match="not trained"):
        oracle.loss(pairs(), generator(0))
    with pytest.raises(ValueError, match="'gaussian-checkerboard' has no closed-form velocity"):
        kind.build_net(TASKS.resolve("gaussian-checkerboard")(), {}, False)


def test_the_classifier_learns_content_and_does_not_generate(make, seeded) -> None:
    method, source = make("classifier")
    with pytest.raises(ValueError, match="generates no samples"):
        method.sample(torch.zeros(1, 1, 8, 8), Sampler("euler", 1))
    with pytest.raises(ValueError, match="needs a task with labels"):
        method.loss(pairs(), generator(0))
    uniform = seeded(lambda: Classifier(CNN((1, 8, 8), num_classes=10)))
    for p in uniform.net.head.parameters():
        p.data.zero_()
    assert float(uniform.loss(source(generator(1)), generator(1)).detach()) == pytest.approx(2.302585, abs=1e-5)
    assert 0 <= uniform.diagnostics(TASKS.resolve("digits")())["heldout_accuracy"] < 0.2
    assert uniform.features(torch.zeros(3, 1, 8, 8)).shape == (3, 64)
