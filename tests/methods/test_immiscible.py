"""Immiscible diffusion: its limits are methods that are there already, and its bias of the prior is what it is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fmbench.methods.base import Batch
from fmbench.methods.cfm import CFM
from fmbench.methods.immiscible import Immiscible, ImmiscibleKNN
from fmbench.methods.ot_cfm import OTCFM
from fmbench.nets.mlp import MLP
from fmbench.noise import generator
from fmbench.registry import TASKS


def batch(n: int = 64, d: int = 2) -> Batch:
    return Batch(*(torch.randn((n, d), generator=generator(k)) for k in (1, 2)))


def test_one_noise_is_cfm_and_the_squared_assignment_is_ot_cfm_bit_by_bit() -> None:
    net = MLP((2,))
    for one, other in ((ImmiscibleKNN(net, k=1), CFM(net)), (Immiscible(net, squared=True), OTCFM(net))):
        assert torch.equal(one.loss(batch(), generator(3)), other.loss(batch(), generator(3)))


def test_the_assignment_is_a_permutation_with_the_least_mean_distance() -> None:
    given = batch(5)
    paired = Immiscible(MLP((2,))).pair(given, generator(3))
    distance = torch.cdist(given.x0, given.x1)
    least = min(float(distance[torch.arange(5), list(p)].sum()) for p in itertools.permutations(range(5)))
    assert float((paired.x0 - paired.x1).norm(dim=1).sum()) == pytest.approx(least, rel=1e-6)
    assert sorted(paired.x1.tolist()) == sorted(given.x1.tolist()) and torch.equal(paired.x0, given.x0)
    by_square = Immiscible(MLP((2,)), squared=True)
    many = [batch(40)] + [
        Batch(*(torch.randn((40, 2), generator=generator(k, 9)) for k in (i, i + 50))) for i in range(9)
    ]
    assert any(
        not torch.equal(by_square.pair(b, generator(0)).x1, Immiscible(MLP((2,))).pair(b, generator(0)).x1)
        for b in many
    )


@pytest.mark.parametrize(("d", "k", "at_zero"), [(2, 4, 0.2513), (64, 4, 0.826), (64, 64, 0.635)])
def test_the_noise_of_a_datum_at_the_origin_shrinks_as_was_derived(d: int, k: int, at_zero: float) -> None:
    rows = 20_000 if d == 2 else 4_000
    given = Batch(torch.randn((rows, d), generator=generator(8)), torch.zeros((rows, d)))
    used = ImmiscibleKNN(MLP((d,)), k=k).pair(given, generator(9)).x0
    assert float(used.square().mean()) == pytest.approx(at_zero, rel=0.02)


def test_every_datum_gets_the_nearest_of_its_noises() -> None:
    method, given = ImmiscibleKNN(MLP((2,)), k=8), batch()
    paired = method.pair(given, generator(4))
    assert torch.equal(paired.x1, given.x1)
    random = generator(4)
    every = torch.stack([given.x0, *(torch.randn((64, 2), generator=random) for _ in range(7))])
    nearest = (every - given.x1).square().sum(-1).argmin(0)
    assert torch.equal(paired.x0, every[nearest, torch.arange(64)])


def test_the_mean_cost_falls_with_k_and_the_prior_is_bent_towards_the_data() -> None:
    """In one dimension with all data far to the right the nearest of k noises is their maximum: mean .5642, .8463, 1.0294 for k = 2, 3, 4."""
    far = Batch(torch.randn((40_000, 1), generator=generator(5)), torch.full((40_000, 1), 50.0))
    for k, mean in ((1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 0.8463), (4, 1.0294)):
        used = ImmiscibleKNN(MLP((1,)), k=k).pair(far, generator(6)).x0
        assert float(used.mean()) == pytest.approx(mean, abs=0.02)


def test_the_card_says_how_far_the_prior_is_bent() -> None:
    task = TASKS.resolve("gaussian-8gaussians")()
    none, some = (ImmiscibleKNN(MLP((2,)), k=k).diagnostics(task) for k in (1, 8))
    assert none["prior_variance"] == pytest.approx(1, abs=0.06) and none["prior_mean"] < 0.05
    # Data on a circle of radius 5: the nearest of eight noises lies outwards.
    assert some["prior_variance"] > 1.4
    with pytest.raises(ValueError, match="k must be from 1 to 1024"):
        ImmiscibleKNN(MLP((2,)), k=0)
