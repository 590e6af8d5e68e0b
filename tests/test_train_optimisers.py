"""Optimisers by name: interrupted like uninterrupted, options by signature, plug-ins, and nothing of it in recipes that say nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fmbench.records.recipe import Recipe, override, read, require_closed
from fmbench.registry import OPTIMISERS, TASKS
from fmbench.training.optimisers import make_optimiser
from fmbench.training.run import CHECKPOINT, train
from fmbench.zoo.entry import WEIGHTS

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-8gaussians"
OPTIONS = {
    "adamw": {"betas": [0.8, 0.9], "eps": 1e-6},
    "adam": {"betas": [0.8, 0.9], "eps": 1e-6},
    "sgd": {"momentum": 0.5, "nesterov": True},
}


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", sorted(OPTIMISERS.table))
def test_interrupted_is_uninterrupted_and_options_count(name: str, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe(TASK, "cfm", **{"train.steps": 6, "train.optimiser": name})
    straight = weights(train(recipe, tmp_path / "straight"))
    for stop in (2, 3, 6):
        train(recipe, tmp_path / "parts", max_steps=stop)
    assert weights(tmp_path / "parts") == straight
    settings = {f"train.optimiser_options.{key}": value for key, value in OPTIONS[name].items()}
    other = override(recipe, settings)
    train(other, tmp_path / "options", max_steps=2)
    with pytest.raises(ValueError, match="is of another recipe"):
        train(recipe, tmp_path / "options")
    train(other, tmp_path / "options")
    assert weights(tmp_path / "options") != straight
    found = read(tmp_path / "options" / "recipe.toml")
    assert found.train == other.train and found.identity() == other.identity() != recipe.identity()


def test_one_step_of_each_is_what_its_paper_says() -> None:
    """From rest along the gradient 3: Adam's first step has length lr; the decay is of the weight, or of the gradient."""
    steps = {}
    for name in ("adamw", "adam", "sgd"):
        recipe = override(_closed(), {"train.lr": 0.1, "train.weight_decay": 0.5, "train.optimiser": name})
        weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        optimiser = make_optimiser(recipe.train, [weight])
        weight.grad = torch.tensor([3.0], dtype=torch.float64)
        optimiser.step()
        steps[name] = 2.0 - weight.item()
    assert steps == pytest.approx({"adamw": 0.1 + 0.1 * 0.5 * 2, "adam": 0.1, "sgd": 0.1 * (3 + 0.5 * 2)}, rel=1e-6)


def _closed() -> Recipe:
    from fmbench.records.recipe import closed

    return closed(TASKS.resolve(TASK)(), "cfm")


def test_a_recipe_that_names_the_default_is_the_one_that_names_none() -> None:
    recipe = _closed()
    assert "optimiser" not in recipe.to_toml()
    named = override(recipe, {"train.optimiser": "adamw", "division": "closed"})
    assert named.identity() == recipe.identity() and named.to_toml() == recipe.to_toml()


@pytest.mark.parametrize("settings", [{"train.optimiser": "sgd"}, {"train.optimiser_options.eps": 1e-3}], ids=str)
def test_the_closed_division_fixes_it(settings: dict) -> None:
    task = TASKS.resolve(TASK)()
    assert override(_closed(), settings).division == "open"
    with pytest.raises(ValueError, match=r"division is closed, but train\.optimiser"):
        require_closed(override(_closed(), {**settings, "division": "closed"}), task, "r")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train.optimiser": "adamww"}, r"\[train\]: unknown optimiser 'adamww'; nearest: adamw"),
        ({"train.optimiser": ""}, "optimiser must be 1 to 300 characters"),
        ({"train.optimiser": 3}, "optimiser must be str, got 3"),
        ({"train.optimiser_options": 3}, "optimiser_options must be"),
        ({"train.optimiser_options.momentum": 0.9}, r"\[train.optimiser_options\]: unknown key 'momentum'.*allowed: betas, eps"),
        ({"train.optimiser_options.eps": "small"}, "eps must be float, got 'small'"),
        ({"train.optimiser_options.eps": float("nan")}, "eps must be finite, got nan"),
        ({"train.optimiser_options.betas": [0.9]}, r"betas must be tuple\[float, float\], got"),
        ({"train.optimiser_options.lr": 0.1}, "unknown key 'lr'"),
        ({"train.optimiser_options.betas": [2.0, 3.0]}, "optimiser adamw: Invalid beta parameter at index 0: 2.0"),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_optimiser_has_is_named(settings: dict, words: str, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        train(tiny_recipe(TASK, "cfm", **settings), tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x" / CHECKPOINT).exists()


PLUGIN = """
import torch

class Signs(torch.optim.Optimizer):
    '''Steps by the sign of a momentum that grows by the number of steps, which a group counts.'''

    def __init__(self, params, lr, weight_decay, memory: float = 0.9):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, memory=memory, count=0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - group["memory"])
                    p.add_(state["mean"].sign(), alpha=-group["lr"] / group["count"])

def failing(parameters, lr, weight_decay):
    raise RuntimeError("first\\nsecond")

class Late(Signs):
    def step(self, closure=None):
        raise SystemExit(3)

def number(parameters, lr, weight_decay):
    return 3

def few(parameters, lr, weight_decay):
    return Signs(list(parameters)[:1], lr, weight_decay)
"""


@pytest.fixture
def fmbench(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line with a plug-in that is really installed: metadata and module on the path."""
    site = tmp_path / "site"
    info = site / "signs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "signs.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: signs\nVersion: 1.0\n")
    names = {"signs": "Signs", "failing": "failing", "late": "Late", "number": "number", "few": "few", "adamw": "Signs"}
    lines = [f"{name} = signs:{target}" for name, target in names.items()] + ["gone = not_there:Signs"]
    (info / "entry_points.txt").write_text("[fmbench.optimisers]\n" + "\n".join(lines) + "\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fmbench", "train", "--method", "cfm", "--task", TASK, *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return call


@pytest.mark.slow
def test_a_plugin_trains_and_goes_on(fmbench: Callable, tmp_path: Path) -> None:
    words = ["--set", "train.steps=4", "--set", "train.optimiser=signs", "--set", "train.optimiser_options.memory=0.5"]
    for out, stops in (("whole", [4]), ("parts", [2, 4])):
        for stop in stops:
            done = fmbench(*words, "--out", out, "--max-steps", stop)
            assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert read(tmp_path / "whole" / "recipe.toml").train.optimiser_options == {"memory": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("failing", "optimiser failing: RuntimeError: first"),
        ("late", "optimiser late at step 0: SystemExit: 3"),
        ("number", "optimiser number must be a torch.optim.Optimizer, got int"),
        ("few", "optimiser few leaves out 7 of 8 parameters"),
        ("gone", "optimiser gone"),
        ("sings", "unknown optimiser 'sings'; nearest: signs"),
    ],
)
def test_whatever_a_plugin_does_is_one_line(name: str, words: str, fmbench: Callable, tmp_path: Path) -> None:
    done = fmbench("--set", "train.steps=1", "--set", f"train.optimiser={name}", "--out", "out")
    assert done.returncode == (2 if "unknown" in words else 1)
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("fmbench")]
    assert words in said and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / WEIGHTS).exists()
