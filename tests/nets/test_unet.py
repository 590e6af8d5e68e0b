"""The UNet: parity with torchcfm's network on the same weights, starts at zero, and options that keep their promises."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbench.nets.embedding import time_features
from fmbench.nets.presets import PRESETS, preset
from fmbench.nets.unet import Attention, ResidualBlock, UNet
from fmbench.noise import generator
from fmbench.registry import NETS, UnknownName, create
from fmbench.shapes import Condition

SHAPE = (1, 8, 8)
TINY = {"channels": 16, "multipliers": (1, 2), "attention": (4,)}
N = 4


def stirred(net: nn.Module, seed: int = 21) -> nn.Module:
    """Every parameter moved, so that layers which start at zero speak."""
    random = generator(seed)
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=random)
    return net.eval()


def inputs(shape: tuple[int, ...] = SHAPE, n: int = N) -> tuple[Tensor, Tensor]:
    random = generator(22)
    return torch.randn((n, *shape), generator=random), torch.rand(n, generator=random)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def of_preset(name: str, shape: tuple[int, ...], num_classes: int = 0) -> nn.Module:
    """A preset without memory: sizes only."""
    table = preset(name)
    with torch.device("meta"):
        return create("nets", table.pop("name"), shape=shape, num_classes=num_classes, **table)


CIFAR10 = {
    "dim": (3, 32, 32), "num_channels": 128, "num_res_blocks": 2, "channel_mult": [1, 2, 2, 2], "num_heads": 4,
    "num_head_channels": 64, "attention_resolutions": "16", "dropout": 0.1,
}  # fmt: skip


def test_cifar10_preset_is_the_size_of_torchcfms_network() -> None:
    reference = pytest.importorskip("torchcfm.models.unet.unet", reason="torchcfm is not installed")
    with torch.device("meta"):
        theirs = count(reference.UNetModelWrapper(**CIFAR10))
    assert theirs == 35_746_307
    assert count(of_preset("unet-cifar10", (3, 32, 32))) == theirs


@pytest.mark.parametrize("scale_shift", [False, True])
def test_adm_unet_computes_what_torchcfms_does_on_the_same_weights(scale_shift: bool, seeded, monkeypatch) -> None:
    """Only the time features differ (theirs are made for times up to 1000), so theirs are replaced by ours; all else is compared."""
    reference = pytest.importorskip("torchcfm.models.unet.unet", reason="torchcfm is not installed")
    monkeypatch.setattr(reference, "timestep_embedding", time_features)
    settings = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "num_head_channels": 16}
    theirs = stirred(
        seeded(
            lambda: reference.UNetModelWrapper(
                (3, 8, 8),
                **settings,
                attention_resolutions="4",
                use_new_attention_order=True,
                use_scale_shift_norm=scale_shift,
                class_cond=True,
                num_classes=4,
            )
        )
    )
    ours = UNet(
        (3, 8, 8), 3, channels=32, multipliers=(1, 2), attention=(4,), groups=32, head_channels=16,
        scale_shift=scale_shift, adm=True,
    ).eval()  # fmt: skip
    order = ("embed", "label_embedding", "stem", "down", "middle", "up", "head")
    names = sorted(ours.state_dict(), key=lambda name: order.index(name.partition(".")[0]))  # sorted() is stable
    weights = list(theirs.state_dict().values())
    sizes = ours.state_dict()
    assert len(weights) == len(names)
    ours.load_state_dict({k: w.reshape(sizes[k].shape) for k, w in zip(names, weights, strict=True)})
    x, t = inputs((3, 8, 8))
    labels = torch.tensor([0, 1, 2, 3])
    expected = theirs(t, x, labels)
    assert expected.std() > 0.1
    assert torch.allclose(ours(x, t, cond=Condition(labels)), expected, atol=1e-5)


def test_small_preset_is_about_a_million_parameters() -> None:
    assert 800_000 < count(of_preset("unet-small", (1, 28, 28), 10)) < 1_050_000


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_net_tables(name: str) -> None:
    table = preset(name)
    assert NETS.resolve(table["name"])
    table["name"] = "changed"
    assert preset(name)["name"] != "changed"


def test_unknown_presets_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown net preset 'unet-cifar'; nearest: unet-cifar10"):
        preset("unet-cifar")


@pytest.mark.parametrize("settings", [{}, {"patch": 2}, {"scale_shift": False}, {"dropout": 0.5}], ids=str)
def test_adm_unet_starts_at_zero(settings: dict, seeded) -> None:
    net = seeded(lambda: UNet(SHAPE, 3, **{**TINY, **settings}, adm=True))
    x, t = inputs()
    assert (net(x, t, cond=Condition(torch.zeros(N, dtype=torch.int64))) == 0).all()
    assert not (stirred(net)(x, t) == 0).any()


def test_adm_blocks_start_as_the_identity(seeded) -> None:
    net = seeded(lambda: UNet(SHAPE, **TINY, adm=True))
    block, attention = net.middle[0], net.middle[1]
    h = torch.randn(N, 32, 4, 4, generator=generator(23))
    embedding = torch.randn(N, 64, generator=generator(24))
    assert isinstance(block, ResidualBlock)
    assert isinstance(attention, Attention)
    assert torch.equal(block(h, embedding), h)
    assert torch.equal(attention(h), h)


@pytest.mark.parametrize("settings", [{}, {"adm": True, "scale_shift": False, "head_channels": 8}], ids=str)
def test_every_parameter_learns(settings: dict, seeded) -> None:
    """What sits behind a layer that starts at zero hears nothing at first: three steps open every gate."""
    net = seeded(lambda: UNet(SHAPE, 3, **TINY, **settings))
    x, t = inputs(n=8)
    labels = torch.arange(8) % 4
    target = torch.randn(x.shape, generator=generator(25))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(4):
        optimiser.zero_grad()
        (net(x, t, cond=Condition(labels)) - target).square().mean().backward()
        optimiser.step()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    assert not silent


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_softmax_of_the_scaled_products(heads: int, seeded) -> None:
    attention = stirred(seeded(lambda: Attention(16, 4, heads))).double()
    x = torch.randn(2, 16, 3, 5, generator=generator(26), dtype=torch.float64)
    q, k, v = attention.qkv(attention.norm(x)).flatten(2).chunk(3, dim=1)
    mixed = torch.empty_like(q)
    for head in range(heads):
        rows = slice(head * 16 // heads, (head + 1) * 16 // heads)
        for sample in range(2):
            products = q[sample, rows].T @ k[sample, rows] / (16 / heads) ** 0.5
            mixed[sample, rows] = v[sample, rows] @ torch.softmax(products, dim=1).T
    expected = x + F.conv2d(mixed.reshape(x.shape), attention.project.weight, attention.project.bias)
    assert torch.allclose(attention(x), expected, atol=1e-10)


def test_head_channels_are_heads(seeded) -> None:
    """16 and 32 channels of heads 8 wide: with one level attending, the same network as heads = 32 / 8."""
    wide = stirred(seeded(lambda: UNet(SHAPE, **TINY, head_channels=8)))
    many = stirred(seeded(lambda: UNet(SHAPE, **TINY, heads=4)))
    few = stirred(seeded(lambda: UNet(SHAPE, **TINY, heads=2)))
    x, t = inputs()
    assert torch.equal(wide(x, t), many(x, t))
    assert not torch.allclose(wide(x, t), few(x, t), atol=1e-5)


def test_pixel_stem_and_head_undo_each_other(seeded) -> None:
    net = seeded(lambda: UNet(SHAPE, patch=2, **{**TINY, "attention": ()}))
    x, _ = inputs()
    folded = net.stem[0](x)
    assert folded.shape == (N, 4, 4, 4)
    assert torch.equal(net.head[-1](folded), x)
    assert torch.equal(folded[:, 1], x[:, 0, ::2, 1::2])  # channel 1 of a block is its upper right pixel


def test_interior_moves_with_the_image(seeded) -> None:
    """Without attention, one level is convolutions and norms: away from the border it commutes with shifts, up to its field of view."""
    net = stirred(seeded(lambda: UNet((1, 40, 40), channels=8, multipliers=(1,), attention=()))).double()
    x = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    x[..., 18:22, 18:22] = torch.randn(4, 4, generator=generator(27), dtype=torch.float64)
    t = torch.full((1,), 0.4, dtype=torch.float64)
    moved = net(x.roll((2, 3), dims=(2, 3)), t)
    inside = (..., slice(14, 26), slice(14, 26))
    here = net(x, t).roll((2, 3), dims=(2, 3))[inside]
    assert torch.allclose(moved[inside], here, atol=5e-3)
    assert (here - here.mean()).abs().max() > 0.05


def test_dropout_acts_in_training_only(seeded) -> None:
    net = stirred(seeded(lambda: UNet(SHAPE, **TINY, dropout=0.5)))
    plain = stirred(seeded(lambda: UNet(SHAPE, **TINY)))
    x, t = inputs()
    assert torch.equal(net(x, t), plain(x, t))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        assert not torch.allclose(net.train()(x, t), plain(x, t), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 12}, "8 groups do not divide a UNet width of 12"),
        ({"channels": 24, "heads": 5}, "5 heads do not divide a UNet width of 48"),
        ({"channels": 24, "head_channels": 32}, "heads of 32 channels do not divide a UNet width of 48"),
    ],
    ids=str,
)
def test_widths_that_do_not_divide_are_one_clear_line(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(SHAPE, **settings)


def test_weights_of_the_zoo_still_fit() -> None:
    """The names, shapes and order of the digits network are those its published weights have."""
    from fmbench.zoo.resolve import load

    model = load("digits/cfm")
    assert isinstance(model.method.net, UNet)
    assert model.recipe is not None
    assert model.recipe.weights is not None
    assert model.parameters == model.recipe.weights.parameters
    assert abs(float(model.sample(64, steps=8).mean()) - float(model.task.target.points()[0].mean())) < 0.1
