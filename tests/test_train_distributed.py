"""A batch cut over processes and parts trains like the whole batch: same losses, same weights up to rounding."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fmbench.noise import generator
from fmbench.records.recipe import Recipe, read
from fmbench.training.piecewise import Cut, check_rows
from fmbench.training.processes import join, launch, launched
from fmbench.training.run import CHECKPOINT, train
from fmbench.training.sharding import Sharded, require_called
from fmbench.zoo.entry import WEIGHTS

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-8gaussians"
UNET = {"name": "unet", "channels": 8, "multipliers": (1,), "blocks": 1, "attention": (), "dropout": 0.3}
STEPS = 6

pytest.importorskip("accelerate")


def curve(recipe: Recipe, out: Path, **options: object) -> list[float]:
    losses: list[float] = []
    train(recipe, out, report=lambda _, loss: losses.append(loss), **options)  # pyright: ignore[reportArgumentType]
    return losses


def recipes(tiny_recipe: MakeRecipe) -> dict[str, Recipe]:
    """Coupled and weighted over the whole batch, with labels dropped, with dropout; 33 rows do not divide evenly."""
    few = {"train.steps": STEPS, "train.batch_size": 33, "train.clip": 1.0}
    return {
        "ot-cfm": tiny_recipe(TASK, "ot-cfm", **few),
        "w-cfm": tiny_recipe(TASK, "w-cfm", **few),
        "unet": tiny_recipe("digits", "cfm", conditional=True, **few, net=UNET, **{"train.storage": "float32"}),
        "bfloat16": tiny_recipe(TASK, "cfm", **few, **{"train.precision": "bfloat16"}),
    }


def coupled_net() -> tuple[torch.nn.Sequential, torch.Tensor]:
    """A network with dropout, and eleven rows."""
    random = generator(5)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.4), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random)
    return net, torch.randn(11, 3, generator=random)


def coupled_gradient(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of a loss that is no mean over rows: its derivative by one row depends on all others."""
    net.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        net(x).exp().prod(dim=1).logsumexp(dim=0).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def every_recipe(folder: Path, report: Callable[..., None]) -> None:
    """Runs in each of two processes: every recipe, the OT one stopped half-way, and what the processes see of each other."""
    group = join("cpu")
    assert group is not None
    losses = {}
    for name in ("w-cfm", "unet", "bfloat16", "ot-cfm"):
        stop = STEPS // 2 if name == "ot-cfm" else None
        losses[name] = curve(read(folder / f"{name}.toml"), folder / name, max_steps=stop, accumulate=2)
    net, x = coupled_net()
    gradient = coupled_gradient(Sharded(net, Cut(2, group)), x).tolist()
    seen = group.sum(torch.tensor([float(group.rank), 1.0])).tolist()
    try:
        group.agree(group.rank)
        disagreement = ""
    except ValueError as error:
        disagreement = str(error)
    answer = {"losses": losses, "sum": seen, "disagreement": disagreement, "size": launched(), "gradient": gradient}
    (folder / f"rank{group.rank}.json").write_text(json.dumps(answer))
    report(group.rank)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, {name: curve(recipe, folder / name) for name, recipe in recipes(tiny_recipe).items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe) -> tuple[Path, list[dict], list[int]]:
    folder = tmp_path_factory.mktemp("two")
    for name, recipe in recipes(tiny_recipe).items():
        recipe.save(folder / f"{name}.toml")
    reported: list[int] = []
    launch(partial(every_recipe, folder), 2, "cpu", reported.append)
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)], reported


def assert_same_weights(one: Path, other: Path, atol: float = 5e-5) -> None:
    """AdamW divides by the size of the gradient: where that is near 0, rounding moves a weight by per cents of a step, 1e-3."""
    a, b = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w-cfm", "unet"])
def test_two_processes_train_like_one(name: str, whole: tuple, two: tuple) -> None:
    folder, answers, _ = two
    assert answers[0]["losses"][name] == pytest.approx(whole[1][name], rel=1e-6)
    assert len(answers[0]["losses"][name]) == STEPS
    assert_same_weights(whole[0] / name, folder / name)


@pytest.mark.slow
def test_two_processes_train_like_one_in_bfloat16(whole: tuple, two: tuple, tmp_path: Path) -> None:
    """Kernels round by the size of the batch; the curve is closer to the one in bfloat16 than that is to float32's."""
    folder, answers, _ = two
    assert answers[0]["losses"]["bfloat16"] == pytest.approx(whole[1]["bfloat16"], rel=1e-3)
    assert all(value.dtype == torch.float32 for value in load_file(folder / "bfloat16" / WEIGHTS).values())
    assert_same_weights(whole[0] / "bfloat16", folder / "bfloat16", atol=2e-3)


@pytest.mark.slow
def test_a_run_begun_by_two_processes_is_finished_by_one(whole: tuple, two: tuple, tiny_recipe: MakeRecipe) -> None:
    folder, answers, _ = two
    out = folder / "ot-cfm"
    assert [p.name for p in out.iterdir()] == [CHECKPOINT]
    rest = curve(recipes(tiny_recipe)["ot-cfm"], out)
    assert answers[0]["losses"]["ot-cfm"] + rest == pytest.approx(whole[1]["ot-cfm"], rel=1e-6)
    assert_same_weights(whole[0] / "ot-cfm", out)


@pytest.mark.slow
def test_process_0_reports_the_losses_and_the_recipe_says_how_many_there_were(two: tuple) -> None:
    folder, answers, reported = two
    assert all(losses == [] for losses in answers[1]["losses"].values())
    assert sorted(reported) == [0, 1]
    made = read(folder / "w-cfm" / "recipe.toml").made
    assert (made["processes"], made["accumulate"], made["samples_seen"]) == (2, 2, 33 * STEPS)


@pytest.mark.slow
def test_processes_know_each_other(two: tuple) -> None:
    for answer in two[1]:
        assert answer["size"] == 2
        assert answer["sum"] == [1.0, 2.0]
        assert "resumed at steps 0, 1; put the output on a file system" in answer["disagreement"]
    assert launched() == 1  # nothing of it is left here
    assert join("cpu") is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parts"), [("ot-cfm", 3), ("ot-cfm", 33), ("unet", 3)])
def test_accumulated_parts_train_like_the_whole_batch(
    name: str, parts: int, whole: tuple, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    recipe = recipes(tiny_recipe)[name]
    assert curve(recipe, tmp_path / "x", accumulate=parts) == pytest.approx(whole[1][name], rel=1e-6)
    assert_same_weights(whole[0] / name, tmp_path / "x")
    assert recipe.identity() == read(tmp_path / "x" / "recipe.toml").identity()


@pytest.mark.slow
def test_gradients_of_parts_sum_to_that_of_the_whole(two: tuple) -> None:
    """In one process and over two, whose sum has the scale of the whole: AdamW and clipping would hide a factor."""
    net, x = coupled_net()
    before = coupled_gradient(net, x)
    sharded = Sharded(net, Cut(4))
    with pytest.raises(ValueError, match=r"the loss of Own never called Sequential, so its batch cannot be cut"):
        require_called("Own", [sharded])
    torch.testing.assert_close(coupled_gradient(sharded, x), before, atol=1e-6, rtol=1e-6)
    require_called("Own", [sharded])
    alive: list[int] = []
    net[0].register_forward_hook(lambda module, inputs, output: alive.append(len(output)))
    coupled_gradient(sharded, x)
    assert alive == [2, 3, 3, 3, 2, 3, 3, 3]  # once forward, once more backward, part by part
    for answer in two[1]:
        torch.testing.assert_close(torch.tensor(answer["gradient"]), before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("batch", "processes", "parts"), [(33, 2, 2), (7, 7, 1), (128, 4, 8), (5, 1, 1)])
def test_slices_cover_the_batch_evenly(batch: int, processes: int, parts: int) -> None:
    edges = check_rows(batch, processes, parts)
    sizes = torch.tensor(edges).diff()
    assert (edges[0], edges[-1], len(sizes)) == (0, batch, processes * parts)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_a_batch_smaller_than_its_slices_is_refused_before_any_work(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe(TASK, "cfm", **{"train.batch_size": 5})
    words = r"a batch of 5 cannot be cut into 6 slices \(processes 3 x accumulate 2\); at most 5"
    with pytest.raises(ValueError, match=words):
        train(recipe, tmp_path / "x", processes=3, accumulate=2)
    assert list((tmp_path / "x").iterdir()) == []


@pytest.mark.slow
def test_errors_of_the_processes_are_raised_here(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe(TASK, "cfm", **{"train.lr": 1e30, "train.schedule": "constant"})
    seen: list[int] = []
    with pytest.raises(ValueError, match=r"training loss became (nan|inf) at step \d+; lower train.lr"):
        train(recipe, tmp_path / "x", processes=2, report=lambda step, _: seen.append(step))
    assert seen == list(range(1, len(seen) + 1))
    assert seen


def die(report: Callable[..., None]) -> None:
    """Process 1 is killed while process 0 waits for it."""
    group = join("cpu")
    assert group is not None
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    group.wait()


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="process 1 of 2 died with exit code -9"):
        launch(die, 2, "cpu")


def test_more_processes_than_gpus_are_refused() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"{count + 1} processes need {count + 1} GPUs, this machine has {count}"):
        launch(die, count + 1, "cuda")
