"""The transformer: published sizes, starts at zero, softmax attention, equivariance where it holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fmbench.nets.dit import DiT, SelfAttention, position_features
from fmbench.nets.presets import preset
from fmbench.noise import generator
from fmbench.registry import create
from fmbench.shapes import Condition

SHAPE = (3, 8, 12)
TINY = {"width": 24, "depth": 2, "heads": 2}
N = 4


def stirred(net: nn.Module, size: float = 0.1) -> nn.Module:
    """In float64, every parameter moved, so that gates which start closed are open."""
    random = generator(31)
    for p in net.parameters():
        p.data += size * torch.randn(p.shape, generator=random)
    return net.double().eval()


def inputs(shape: tuple[int, ...] = SHAPE, n: int = N) -> tuple[Tensor, Tensor]:
    random = generator(32)
    x = torch.randn((n, *shape), generator=random, dtype=torch.float64)
    return x, torch.rand(n, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(("name", "millions"), [("dit-s-2", 33), ("dit-b-2", 130), ("dit-l-2", 458), ("dit-xl-2", 675)])
def test_presets_have_the_published_sizes(name: str, millions: int) -> None:
    """Table 1 of 2212.09748: 32x32x4 latents of ImageNet, 1000 classes."""
    table = preset(name)
    with torch.device("meta"):
        net = create("nets", table.pop("name"), shape=(4, 32, 32), num_classes=1000, **table)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


def test_tiny_preset_is_the_default_and_below_a_million() -> None:
    table = preset("dit-tiny")
    with torch.device("meta"):
        named, default = (DiT((1, 28, 28), 10, **k) for k in ({k: v for k, v in table.items() if k != "name"}, {}))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (named, default)]
    assert sizes[0] == sizes[1]
    assert 600_000 < sizes[0] < 1_000_000


@pytest.mark.parametrize(
    ("shape", "patch"), [((1, 8, 8), 1), ((1, 28, 28), 2), ((3, 8, 12), 4), ((4, 6, 10), 2)], ids=str
)
def test_any_shape_that_divides(shape: tuple, patch: int, seeded) -> None:
    net = stirred(seeded(lambda: DiT(shape, 3, patch=patch, **TINY)))
    x, t = inputs(shape)
    assert net(x, t).shape == x.shape
    assert torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 9, 8), {}, r"patch 2 needs images \(c, h, w\) divisible by 2, got \(1, 9, 8\)"),
        ((1, 8, 10), {"patch": 4}, "divisible by 4, got"),
        ((2,), {}, r"got \(2,\)"),
        ((1, 8, 8), {"width": 30, "heads": 2}, "width must be divisible by 4 and by heads = 2, got 30"),
        ((1, 8, 8), {"width": 32, "heads": 3}, "divisible by 4 and by heads = 3, got 32"),
    ],
    ids=str,
)
def test_sizes_that_do_not_divide_are_one_clear_line(shape: tuple, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiT(shape, **settings)


def test_starts_at_zero_with_every_block_the_identity(seeded) -> None:
    net = seeded(lambda: DiT(SHAPE, 3, **TINY)).double()
    x, t = inputs()
    assert (net(x, t, cond=Condition(torch.arange(N) % 3)) == 0).all()
    h = torch.randn(N, 24, 24, generator=generator(33), dtype=torch.float64)
    condition = torch.randn(N, 24, generator=generator(34), dtype=torch.float64)
    assert torch.equal(net.blocks[0](h, condition), h)


def test_every_parameter_learns(seeded) -> None:
    """Gates and output start at zero, so what is behind them hears nothing at first: three steps open every gate."""
    net = seeded(lambda: DiT(SHAPE, 3, **TINY)).double()
    x, t = inputs(n=8)
    target = torch.randn(x.shape, generator=generator(35), dtype=torch.float64)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(4):
        optimiser.zero_grad()
        (net(x, t, cond=Condition(torch.arange(8) % 4)) - target).square().mean().backward()
        optimiser.step()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert not silent


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_softmax_of_the_scaled_products(heads: int, seeded) -> None:
    attention = stirred(seeded(lambda: SelfAttention(8, heads)))
    x = torch.randn(2, 5, 8, generator=generator(36), dtype=torch.float64)
    size = 8 // heads
    q, k, v = attention.qkv(x).split(8, dim=2)
    mixed = torch.empty_like(x)
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        for sample in range(2):
            products = q[sample][:, columns] @ k[sample][:, columns].T / size**0.5
            mixed[sample][:, columns] = torch.softmax(products, dim=1) @ v[sample][:, columns]
    expected = mixed @ attention.project.weight.T + attention.project.bias
    assert torch.allclose(attention(x), expected, atol=1e-12)


def permuted(x: Tensor, order: Tensor, patch: int = 2) -> Tensor:
    """The image with its patches in another order."""
    folded = torch.nn.functional.pixel_unshuffle(x, patch)
    return torch.nn.functional.pixel_shuffle(folded.flatten(2)[..., order].reshape(folded.shape), patch)


def test_without_positions_patches_have_no_place(seeded) -> None:
    """Only the positions tell patches apart: without them the transformer commutes with any permutation of patches."""
    net = stirred(seeded(lambda: DiT(SHAPE, **TINY)))
    x, t = inputs()
    order = torch.randperm(24, generator=generator(37))
    assert not torch.allclose(net(permuted(x, order), t), permuted(net(x, t), order), atol=1e-3)
    net.positions.zero_()
    assert torch.allclose(net(permuted(x, order), t), permuted(net(x, t), order), atol=1e-10)


def test_positions_tell_every_patch_apart_and_see_offsets_only() -> None:
    features = position_features(5, 7, 32).double()
    assert features.shape == (35, 32)
    assert torch.allclose(features.norm(dim=1), torch.full((35,), 4.0, dtype=torch.float64), atol=1e-5)
    products = (features @ features.T).reshape(5, 7, 5, 7)
    assert torch.allclose(products[1:, 2:, 1:, 2:], products[:-1, :-2, :-1, :-2], atol=1e-4)  # stationary
    distances = torch.cdist(features, features) + 10 * torch.eye(35)
    assert distances.min() > 0.1
    by_row, by_column = products[0, 0, 1, 0], products[0, 0, 0, 1]
    assert by_row == pytest.approx(float(by_column))
    assert not torch.equal(position_features(5, 7, 32), position_features(7, 5, 32))


def test_every_patch_reaches_every_pixel(seeded) -> None:
    net = stirred(seeded(lambda: DiT(SHAPE, **TINY)))
    x, t = inputs()
    moved = x.clone()
    moved[0, 0, 0, 0] += 1
    assert ((net(moved, t) - net(x, t))[0].abs() > 1e-9).all()


def test_outputs_lie_where_their_patches_are(seeded) -> None:
    """With closed gates the network acts patch by patch: a changed pixel changes its own patch only."""
    net = seeded(lambda: DiT(SHAPE, **TINY)).double()
    net.last.weight.data.normal_(generator=generator(38))
    x, t = inputs()
    moved = x.clone()
    moved[:, :, 5, 8] += 1
    change = (net(moved, t) - net(x, t)).abs().amax(dim=(0, 1)) > 0
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[4:6, 8:10] = True
    assert torch.equal(change, expected)


def test_positions_are_no_weights(seeded) -> None:
    net = seeded(lambda: DiT(SHAPE, **TINY))
    assert not [name for name in net.state_dict() if "position" in name]
    assert not net.positions.requires_grad
