"""The finite data sets of the published 2-D tables, and a task whose reference is not its target."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch

from fmbench.methods.base import Batch
from fmbench.methods.ot_cfm import OTCFM
from fmbench.noise import generator
from fmbench.paths.couplings import exact_pairs, redrawn
from fmbench.registry import TASKS
from fmbench.tasks.base import Task
from fmbench.tasks.sf2m import TEST, TRAIN, VALIDATION
from fmbench.tasks.toys import EIGHT_GAUSSIANS, MOONS, Moons

FIRST_GAUSSIAN, FIRST_MOON = [1.1301, -3.6237], [1.3871, -1.8433]
NAMES = ("sf2m-gaussians", "sf2m-moons")


def parts(task: Task) -> list[torch.Tensor]:
    return [d.points()[0] for d in (task.target, task.heldout, task.reference)]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_the_three_parts_share_no_point_and_are_the_same_everywhere(name: str) -> None:
    task = TASKS.resolve(name)()
    found = parts(task)
    assert [len(p) for p in found] == [TRAIN, VALIDATION, TEST]
    assert len({tuple(row) for p in found for row in p.tolist()}) == TRAIN + VALIDATION + TEST
    first = {"sf2m-gaussians": FIRST_GAUSSIAN, "sf2m-moons": FIRST_MOON}[name]
    assert found[2][0].tolist() == pytest.approx(first, abs=1e-4)  # the last bits belong to the machine


@pytest.mark.parametrize("name", NAMES)
def test_models_are_compared_with_the_test_points_and_data_with_the_validation_points(name: str) -> None:
    task = TASKS.resolve(name)()
    train, validation, test = parts(task)
    assert torch.equal(task.real(7, 3), test)
    assert torch.equal(task.anchor(7, 3), validation)
    assert task.distinct((0, 1, 2)) == (0,)
    seen = task.target.sample(400, generator(5))
    assert {tuple(row) for row in seen.tolist()} <= {tuple(row) for row in train.tolist()}


def test_the_moons_without_blur_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    points, labels = datasets.make_moons(1000, shuffle=False)
    angle = torch.linspace(0, np.pi, 500, dtype=torch.float64).repeat(2)
    ours = Moons.curve(angle, torch.from_numpy(labels).bool())
    assert torch.allclose(ours, torch.from_numpy(points), atol=1e-12)
    every = torch.cat(parts(TASKS.resolve("sf2m-moons")()))
    assert every.mean(0).numpy() == pytest.approx(2 * points.mean(0) - 1, abs=0.01)


def test_every_gaussian_has_as_many_points() -> None:
    every = torch.cat(parts(TASKS.resolve("sf2m-gaussians")())).double()
    # Neighbouring means are 3.83 apart: a known share of a Gaussian of std 1 is nearer to another mean, the same for all eight.
    counts = torch.cdist(every, EIGHT_GAUSSIANS.means).argmin(1).bincount()
    assert counts.numpy() == pytest.approx(np.full(8, 1500), abs=4 * (2 * 1500 * 0.03 * 2) ** 0.5)


def test_the_parts_are_as_far_from_the_distribution_as_fresh_points() -> None:
    _, validation, test = (p.numpy() for p in parts(TASKS.resolve("sf2m-moons")()))
    fresh = [MOONS.sample(1000, generator(9, k)).numpy() for k in range(2)]
    weight = np.full(1000, 1e-3)
    split, drawn = (float(ot.emd2(weight, weight, ot.dist(a, b))) ** 0.5 for a, b in ((validation, test), fresh))
    assert split == pytest.approx(drawn, rel=0.5)


def test_pairs_with_replacement_are_uniform_over_the_plan_and_leave_a_third_of_it_out() -> None:
    n, rounds = 64, 400
    x0, x1 = torch.randn(n, 2, generator=generator(1)), torch.randn(n, 2, generator=generator(2))
    i, j = exact_pairs(x0, x1)
    random = generator(3)
    counts, left_out = torch.zeros(n), 0.0
    for _ in range(rounds):
        drawn, partners = redrawn(i, j, random)
        assert torch.equal(j[drawn], partners)
        counts += drawn.bincount(minlength=n)
        left_out += 1 - len(drawn.unique()) / n
    # Chi-square with 63 degrees: mean 63, deviation 11.2.
    assert float((counts - rounds).square().sum() / rounds) < 63 + 5 * 11.2
    assert left_out / rounds == pytest.approx((1 - 1 / n) ** n, abs=0.01)


def test_ot_cfm_uses_replacement_only_when_asked() -> None:
    batch = Batch(torch.randn(32, 2, generator=generator(4)), torch.randn(32, 2, generator=generator(5)))
    once, again = (OTCFM(torch.nn.Identity(), replacement=r).pair(batch, generator(6)) for r in (False, True))
    assert len(once.x1.unique(dim=0)) == 32
    assert len(again.x1.unique(dim=0)) < 32
