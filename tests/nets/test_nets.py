"""Laws every velocity network keeps: shape, one sample does not see another, time and labels are heard."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fmbench.nets.cnn import CNN
from fmbench.nets.dit import DiT
from fmbench.nets.mlp import MLP
from fmbench.nets.unet import UNet, time_features
from fmbench.noise import generator
from fmbench.registry import NETS
from fmbench.shapes import Condition

SHAPE = (1, 8, 8)
VELOCITY_NETS = [name for name in NETS.all() if name not in ("cnn", "diffusers", "torchcfm")]
CLASSES = 3
N = 6


def stirred(net: nn.Module) -> nn.Module:
    """The net in float64 with every parameter moved, so that layers which start at zero speak."""
    random = generator(11)
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=random)
    return net.double().eval()


def inputs(shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    random = generator(12)
    x = torch.randn((N, *shape), generator=random, dtype=torch.float64)
    return x, torch.linspace(0, 1, N, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def make(seeded: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def build(name: str, num_classes: int = 0, **settings: object) -> nn.Module:
        kind = NETS.resolve(name)
        return stirred(seeded(lambda: kind(shape=SHAPE, num_classes=num_classes, **settings)))

    return build


@pytest.mark.parametrize("name", VELOCITY_NETS)
def test_samples_are_independent_of_their_batch(name: str, make) -> None:
    net = make(name, CLASSES)
    x, t, labels = inputs()
    together = net(x, t, cond=Condition(labels))
    assert together.shape == x.shape
    order = torch.randperm(N, generator=generator(13))
    assert torch.allclose(net(x[order], t[order], cond=Condition(labels[order])), together[order], atol=1e-10)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        assert torch.allclose(net(x[rows], t[rows], cond=Condition(labels[rows])), together[rows], atol=1e-10)


@pytest.mark.parametrize("name", VELOCITY_NETS)
def test_every_sample_hears_its_own_time(name: str, make) -> None:
    net = make(name)
    x, t, _ = inputs()
    moved = t.clone()
    moved[2] += 0.3
    change = (net(x, moved) - net(x, t)).flatten(1).abs().amax(dim=1)
    assert change[2] > 1e-4
    assert change[[0, 1, 3, 4, 5]].max() < 1e-10


@pytest.mark.parametrize("name", VELOCITY_NETS)
def test_every_sample_hears_its_own_label(name: str, make) -> None:
    net = make(name, CLASSES)
    x, t, labels = inputs()
    moved = labels.clone()
    moved[3] = 2
    change = (net(x, t, cond=Condition(moved)) - net(x, t, cond=Condition(labels))).flatten(1).abs().amax(dim=1)
    assert change[3] > 1e-4
    assert change[[0, 1, 2, 4, 5]].max() < 1e-10


@pytest.mark.parametrize("name", VELOCITY_NETS)
def test_the_null_label_is_no_label(name: str, make) -> None:
    net = make(name, CLASSES)
    x, t, labels = inputs()
    assert torch.equal(net(x, t, cond=Condition(torch.full((N,), CLASSES))), net(x, t))
    assert not torch.allclose(net(x, t, cond=Condition(labels)), net(x, t), atol=1e-4)


@pytest.mark.parametrize("name", VELOCITY_NETS)
def test_unconditional_nets_ignore_labels(name: str, make) -> None:
    x, t, labels = inputs()
    net = make(name)
    assert net.num_classes == 0
    assert torch.equal(net(x, t, cond=Condition(labels)), net(x, t))


@pytest.mark.parametrize("settings", [{}, {"patch": 2}, {"multipliers": (1, 2, 2), "attention": (4, 2)}], ids=str)
def test_unet_starts_as_a_constant_velocity(settings: dict, seeded) -> None:
    net = seeded(lambda: UNet(SHAPE, **settings))
    x, t, _ = inputs()
    start = net(x.float(), t.float())
    assert torch.equal(start, start[:1].expand_as(start))  # only the last bias speaks
    assert start.abs().max() < 0.2


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((3, 16, 16), {}),
        ((1, 8, 8), {"patch": 2}),
        ((1, 28, 28), {"multipliers": (1, 2, 2), "blocks": 2}),
        ((1, 8, 12), {}),
    ],
    ids=str,
)
def test_unet_shapes(shape: tuple, settings: dict, seeded) -> None:
    net = stirred(seeded(lambda: UNet(shape, **settings)))
    x, t, _ = inputs(shape)
    assert net(x, t).shape == x.shape


def test_unet_lets_every_pixel_reach_every_pixel(seeded) -> None:
    net = stirred(seeded(lambda: UNet(SHAPE)))
    x, t, _ = inputs()
    moved = x.clone()
    moved[0, 0, 0, 0] += 1
    assert ((net(moved, t) - net(x, t))[0].abs() > 1e-9).all()


@pytest.mark.parametrize(
    ("shape", "settings"), [((1, 6, 6), {"multipliers": (1, 2, 2)}), ((1, 9, 8), {}), ((2,), {})], ids=str
)
def test_unet_names_sizes_that_do_not_divide(shape: tuple, settings: dict) -> None:
    with pytest.raises(ValueError, match=r"needs images divisible by \d, got"):
        UNet(shape, **settings)


def test_time_features_tell_times_apart() -> None:
    features = time_features(torch.linspace(0, 1, 1001), 32)
    assert features.shape == (1001, 32)
    distances = torch.cdist(features, features) + 10 * torch.eye(1001)
    assert distances.min() > 0.1


def test_published_toy_network_has_its_size() -> None:
    """3 hidden layers of 64 on (x, y, t): 3*64+64 + 2*(64*64+64) + 64*2+2 parameters."""
    assert sum(p.numel() for p in MLP((2,)).parameters()) == 8706


def test_mlp_names_the_activations() -> None:
    with pytest.raises(ValueError, match="unknown activation 'tanh'; allowed: selu, silu, relu, gelu"):
        MLP((2,), activation="tanh")


def test_cnn_gives_logits_of_its_own_features(seeded) -> None:
    net = stirred(seeded(lambda: CNN(SHAPE, num_classes=10)))
    x, _, _ = inputs()
    logits = net(x)
    assert logits.shape == (N, 10)
    assert torch.equal(net.head(net.body(x)), logits)
    assert torch.allclose(net(x[2:3]), logits[2:3], atol=1e-10)


@pytest.mark.parametrize(
    ("net", "settings", "words"),
    [
        ("mlp", {"width": 0}, "MLP width must be at least 1, got 0"),
        ("mlp", {"depth": -1}, "MLP depth must be at least 0, got -1"),
        ("cnn", {"num_classes": 10, "channels": -3}, "CNN channels must be at least 1, got -3"),
        ("dit", {"patch": 0}, "DiT patch must be at least 1, got 0"),
        ("dit", {"heads": 0}, "DiT heads must be at least 1, got 0"),
        ("unet", {"multipliers": ()}, "UNet multipliers must not be empty"),
        ("unet", {"multipliers": (1, 0)}, "UNet multipliers must be at least 1, got 0"),
        ("unet", {"multipliers": (1,) * 1000}, "UNet multipliers must be at most 16, got 1000"),
        ("unet", {"groups": 0}, "UNet groups must be at least 1, got 0"),
        ("unet", {"dropout": 1.5}, "UNet dropout must be at least 0 and below 1, got 1.5"),
        ("unet", {"adm": True, "channels": 9, "groups": 3}, "UNet channels must be even"),
    ],
)
def test_sizes_that_no_network_can_have_are_named(net: str, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NETS.resolve(net)((1, 8, 8), **settings)


def test_networks_of_two_times_see_slow_features_that_can_be_differentiated() -> None:
    """A derivative by time is as large as the highest frequency; 1000 radians drown the velocity in the target of an average velocity."""
    t = torch.linspace(0, 1, 7)
    for make in (UNet, DiT):
        speeds = []
        for second_time in (False, True):
            net = make((1, 8, 8), second_time=second_time)
            _, speed = torch.func.jvp(lambda t, net=net: time_features(t, 32, net.fastest), (t,), (torch.ones(7),))
            speeds.append(float(speed.norm(dim=1).max()))
        assert speeds[0] > 500
        assert speeds[1] < 40
