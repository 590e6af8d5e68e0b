"""Samples of the base: whatever can sample, whenever it is asked, drawn once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmbench.methods.cfm import CFM
from fmbench.methods.distill import Distill
from fmbench.records.recipe import Recipe
from fmbench.records.sampler import Sampler
from fmbench.training.base_samples import remembering
from fmbench.training.claim import WORKSPACE
from fmbench.training.run import train
from fmbench.zoo.entry import WEIGHTS

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-8gaussians"
FILE = Path(__file__).with_name("own_methods.py")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe) -> Path:
    """A velocity field, and a map distilled from it."""
    folder = tmp_path_factory.mktemp("bases")
    flow = train(tiny_recipe(TASK, "cfm", **{"train.steps": 3}), folder / "flow")
    train(
        tiny_recipe(TASK, "distill", teacher=str(flow), **{"method.pairs": 64, "train.steps": 3}), folder / "one-step"
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("base", "kind"), [("flow", CFM), ("one-step", Distill)])
def test_what_any_base_draws_in_a_step_is_not_drawn_again(
    base: str, kind: type, bases: Path, tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(TASK, f"{FILE}:Follows", teacher=str(bases / base), **{"train.steps": 5})
    straight = (train(recipe, tmp_path / "straight") / WEIGHTS).read_bytes()
    sample, drawn, out = kind.sample, [], tmp_path / "parts"

    def fourth_time_out(self: Any, *given: Any) -> Tensor:
        drawn.append(len(drawn))
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return sample(self, *given)

    monkeypatch.setattr(kind, "sample", fourth_time_out)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out)
    assert len(list((out / WORKSPACE).iterdir())) == 3
    train(recipe, out)  # from the first step: the samples of three are there
    assert len(drawn) == 4 + 2
    assert (out / WEIGHTS).read_bytes() == straight
    assert not (out / WORKSPACE).exists()


@dataclass(frozen=True)
class Keys:
    """Start points, and the key of whatever else is drawn."""

    seed: int
    points: Tensor

    def start(self) -> Tensor:
        return self.points


@dataclass(frozen=True)
class Given:
    labels: Tensor | None = None
    context: Tensor | None = None


class Noisy(nn.Module):
    """Draws more than its start, of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.calls = 0

    def sample(self, start: Keys, sampler: Sampler, cond: Given | None = None) -> Tensor:
        self.calls += 1
        noise = torch.randn(len(start.points), 2, 3, generator=torch.Generator().manual_seed(start.seed))
        shift = 0 if cond is None or cond.labels is None else cond.labels[:, None, None]
        return start.points[:, :, None] * self.weight[:, None] + noise + shift + (sampler.steps or 0)


def test_a_sample_is_named_by_everything_it_depends_on(tmp_path: Path) -> None:
    base, one, two, points = Noisy(), Sampler("euler", 1), Sampler("euler", 2), torch.arange(8.0).view(4, 2)
    labels = torch.arange(4)
    calls = [
        (Keys(0, points), one),
        (Keys(1, points), one),
        (Keys(0, points + 1), one),
        (Keys(0, points), two),
        (Keys(0, points), one, Given(labels)),
        (Keys(0, points), one, Given(labels + 1)),
        (Keys(0, points), one, Given(context=labels)),
    ]
    with torch.no_grad():
        expected = [base.sample(*call) for call in calls]
        for _ in range(2):
            with remembering(base, tmp_path) as view:
                assert type(view) is Noisy and view.weight is base.weight
                for call, answer in zip(calls, expected, strict=True):
                    assert torch.equal(view.sample(*call), answer)
        assert base.calls == 2 * len(calls)
        base.weight.add_(1)
        with remembering(base, tmp_path) as view:
            assert torch.equal(view.sample(*calls[0]), base.sample(*calls[0]))
    with (
        remembering(base, tmp_path) as view,
        pytest.raises(ValueError, match="cannot be named by a value of type object"),
    ):
        view.sample(calls[0][0], one, object())  # type: ignore[arg-type]


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, points = Noisy(), torch.arange(8.0).view(4, 2)
    monkeypatch.setattr("fmbench.training.base_samples.MOST_BYTES", 1000)
    for first in (0, 100):
        with torch.no_grad(), remembering(base, tmp_path) as view:
            for seed in range(first, first + 20):
                given = Keys(seed, points), Sampler("euler", 1)
                assert torch.equal(view.sample(*given), base.sample(*given))
    assert 0 < len(list(tmp_path.iterdir())) < 20


def test_nothing_happens_until_something_is_asked(tmp_path: Path) -> None:
    with remembering(Noisy(), tmp_path / "none"):
        pass
    with remembering(None, tmp_path / "none") as nothing:
        assert nothing is None
    assert not (tmp_path / "none").exists()
