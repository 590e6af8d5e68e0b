"""Training: the same weights with or without interruption, and one clear line when it cannot go on."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fmbench
import fmbench.training.run as training
from fmbench import noise
from fmbench.cli import main
from fmbench.flows.velocity import VelocityFlow
from fmbench.methods.base import VelocityMethod
from fmbench.methods.cfm import CFM
from fmbench.methods.rectified_flow import teacher_pairs
from fmbench.noise import generator
from fmbench.records.recipe import Recipe, override, read
from fmbench.records.sampler import Sampler
from fmbench.registry import TASKS
from fmbench.storage.files import sha256
from fmbench.training.base_samples import remembering
from fmbench.training.run import CHECKPOINT, train
from fmbench.zoo.entry import WEIGHTS
from fmbench.zoo.resolve import load

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-8gaussians"


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe) -> Path:
    return train(tiny_recipe(TASK, "cfm"), tmp_path_factory.mktemp("unbroken") / "entry")


def test_an_entry_is_weights_recipe_and_card(unbroken: Path, tiny_recipe: MakeRecipe) -> None:
    assert sorted(p.name for p in unbroken.iterdir()) == ["README.md", WEIGHTS, "recipe.toml"]
    recipe = read(unbroken / "recipe.toml")
    assert recipe.identity() == tiny_recipe(TASK, "cfm").identity()
    assert recipe.weights is not None
    assert recipe.weights.sha256 == sha256(weights(unbroken))
    assert recipe.weights.bytes == len(weights(unbroken))
    assert recipe.weights.parameters == sum(v.numel() for v in load_file(unbroken / WEIGHTS).values())
    assert recipe.made["samples_seen"] == 30 * 32
    card = (unbroken / "README.md").read_text()
    assert card.startswith("---\n")
    for word in (
        "license: apache-2.0",
        "library_name: fmbench",
        recipe.weights.sha256,
        f'fmbench.load("{TASK}/entry")',
    ):
        assert word in card


def test_training_repeats_itself_and_listens_to_its_seed(
    unbroken: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    state = torch.random.get_rng_state()
    torch.rand(5)
    assert weights(train(tiny_recipe(TASK, "cfm"), tmp_path / "again")) == weights(unbroken)
    other = train(tiny_recipe(TASK, "cfm", **{"train.seed": 1}), tmp_path / "other")
    assert weights(other) != weights(unbroken)
    torch.random.set_rng_state(state)
    train(tiny_recipe(TASK, "cfm", **{"train.steps": 1}), tmp_path / "short")
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("method", ["fm", "rectified-flow"])
def test_without_blur_and_from_one_seed_three_names_train_to_one_set_of_weights(
    method: str, unbroken: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    assert weights(train(tiny_recipe(TASK, method), tmp_path / "entry")) == weights(unbroken)


def test_stopping_at_max_steps_and_going_on_gives_the_same_weights(
    unbroken: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    recipe = tiny_recipe(TASK, "cfm")
    out = tmp_path / "entry"
    seen: list[int] = []
    for stop in (1, 7, 7, 20):
        train(recipe, out, max_steps=stop, report=lambda step, loss: seen.append(step))
        assert [p.name for p in out.iterdir()] == [CHECKPOINT]
    train(recipe, out, report=lambda step, loss: seen.append(step))
    assert seen == list(range(1, 31))
    assert weights(out) == weights(unbroken)
    assert not (out / CHECKPOINT).exists()


def test_a_checkpoint_of_another_recipe_is_neither_continued_nor_lost(
    unbroken: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    out = tmp_path / "entry"
    train(tiny_recipe(TASK, "cfm", **{"train.seed": 1}), out, max_steps=5)
    before = (out / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.pt is of another recipe or teacher; .* --overwrite to start"):
        train(tiny_recipe(TASK, "cfm"), out)
    assert (out / CHECKPOINT).read_bytes() == before
    assert weights(train(tiny_recipe(TASK, "cfm"), out, overwrite=True)) == weights(unbroken)


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from fmbench.training import run as training
from fmbench.records.recipe import read
from fmbench.registry import METHODS, NETS, TASKS
import safetensors.torch, scipy.special
recipe, out = read(Path(sys.argv[1])), sys.argv[2]
METHODS.resolve("cfm"), NETS.resolve("mlp"), TASKS.resolve(recipe.task)
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports once, before the forks
rename = os.replace

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def run(step, file):
    def report(done, loss):
        if done == step and file is None:
            die()
        if done == step:
            os.replace = lambda source, target: die() if Path(target).name == file else rename(source, target)
    training.train(recipe, out, checkpoint_seconds=0.0, report=report)

for point in sys.argv[3:]:
    step, _, file = point.partition(":")
    child = os.fork()
    if child == 0:
        run(int(step), file or None)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(unbroken: Path, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    """SIGKILL after a step, and between writing a file (checkpoint, weights, recipe) and its rename."""
    recipe = tiny_recipe(TASK, "cfm")
    recipe.save(tmp_path / "recipe.toml")
    out = tmp_path / "entry"
    points = ["1", "4", f"6:{CHECKPOINT}", "13", f"27:{CHECKPOINT}", f"29:{WEIGHTS}"]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "recipe.toml"), str(out), *points]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert [int(code) for code in done.stdout.split()] == [-signal.SIGKILL] * len(points), done.stderr
    assert (out / CHECKPOINT).exists()
    assert not (out / WEIGHTS).exists()
    assert not (out / "recipe.toml").exists()
    seen: list[int] = []
    train(recipe, out, report=lambda step, loss: seen.append(step))
    assert seen == []  # all thirty steps were in the checkpoint; only the files were missing
    assert weights(out) == weights(unbroken)
    assert load(str(out)).sample(3).isfinite().all()


def test_leftovers_of_a_kill_are_cleaned_away(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    out = tmp_path / "entry"
    train(tiny_recipe(TASK, "cfm"), out, max_steps=3)
    (out / ".checkpoint.tmp").write_bytes(b"half")
    train(tiny_recipe(TASK, "cfm"), out)
    assert sorted(p.name for p in out.iterdir()) == ["README.md", WEIGHTS, "recipe.toml"]


def test_float16_storage_halves_the_file_and_keeps_the_samples(
    tmp_path: Path, tiny_recipe: MakeRecipe, unbroken: Path
) -> None:
    half = train(tiny_recipe(TASK, "cfm", **{"train.storage": "float16"}), tmp_path / "half")
    state, full = load_file(half / WEIGHTS), load_file(unbroken / WEIGHTS)
    assert {v.dtype for v in state.values()} == {torch.float16}
    for name, value in state.items():
        assert torch.equal(value, full[name].half())
    model = load(str(half))
    assert all(p.dtype == torch.float32 for p in model.method.parameters())
    assert torch.allclose(model.sample(50), load(str(unbroken)).sample(50), atol=0.01)


@pytest.mark.parametrize("decay", [0.25, 0.999])
def test_the_average_of_the_weights_is_what_is_saved(decay: float, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    """The average of four steps, put together from runs of 1 to 4 steps that keep their last weights (decay 0)."""
    name = "net.layers.0.weight"

    def saved(steps: int, ema: float) -> torch.Tensor:
        settings = {"train.steps": steps, "train.ema": ema, "train.schedule": "constant", "train.lr": 0.1}
        return load_file(train(tiny_recipe(TASK, "cfm", **settings), tmp_path / f"{steps}-{ema}") / WEIGHTS)[name]

    first, *later = (saved(steps, 0.0) for steps in (1, 2, 3, 4))
    average = first
    for n, current in enumerate(later, start=1):
        keep = min(decay, (1 + n) / (10 + n))
        average = keep * average + (1 - keep) * current
    assert torch.allclose(saved(4, decay), average, atol=1e-6)
    assert not torch.allclose(average, later[-1], atol=1e-3)


@pytest.mark.parametrize("method", ["reflow", "distill", "consistency-distill"])
def test_students_start_from_their_teacher(method: str, zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    pairs = {} if method == "consistency-distill" else {"method.pairs": 256}
    settings = {"teacher": f"{TASK}/tiny", **pairs, "train.lr": 0.0, "train.steps": 2}
    out = train(tiny_recipe(TASK, method, **settings), tmp_path / "student")
    assert weights(out) == weights(zoo / TASK / "tiny")  # learning rate 0
    teacher = read(zoo / TASK / "tiny" / "recipe.toml").weights
    assert teacher is not None
    made, before = read(out / "recipe.toml").made, read(zoo / TASK / "tiny" / "recipe.toml").train
    assert made["teacher_sha256"] == teacher.sha256
    assert made["teacher_samples_seen"] == before.steps * before.batch_size
    assert f"trained on {made['teacher_samples_seen']:,} samples before" in (out / "README.md").read_text()
    assert load(str(out)).sample(4).isfinite().all()


@pytest.mark.parametrize("method", ["reflow", "distill"])
def test_missing_teachers_are_named(method: str, zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match=f'{method} needs a teacher; set teacher = "{TASK}/entry"'):
        train(tiny_recipe(TASK, method), tmp_path / "a")
    with pytest.raises(ValueError, match=f"unknown entry '{TASK}/tinny'; nearest: {TASK}/tiny"):
        train(tiny_recipe(TASK, method, teacher=f"{TASK}/tinny"), tmp_path / "b")


def test_a_teacher_of_another_task_is_refused(zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    """Same shape, other distribution: the pairs would silently be those of the wrong task."""
    with pytest.raises(ValueError, match="teacher"):
        train(
            tiny_recipe("gaussian-moons", "reflow", teacher=f"{TASK}/tiny", **{"method.pairs": 256}),
            tmp_path / "x",
            max_steps=1,
        )


def test_pairs_made_before_an_interruption_are_not_made_again(
    zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(TASK, "reflow", teacher=f"{TASK}/tiny", **{"method.pairs": 1000, "train.steps": 3})
    straight = weights(train(recipe, tmp_path / "straight"))
    sampled: list[int] = []
    sample = VelocityMethod.sample

    def third_time_out(self: VelocityMethod, noise: torch.Tensor, *rest: Any) -> torch.Tensor:
        sampled.append(len(noise))
        if len(sampled) == 3:
            raise KeyboardInterrupt
        return sample(self, noise, *rest)

    monkeypatch.setattr(VelocityMethod, "sample", third_time_out)
    out = tmp_path / "entry"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out)
    train(recipe, out, max_steps=1)
    assert len(sampled) == 3 + 2
    train(recipe, out)
    assert len(sampled) == 3 + 2
    assert weights(out) == straight
    assert sorted(p.name for p in out.iterdir()) == ["README.md", WEIGHTS, "recipe.toml"]


def test_samples_of_a_teacher_are_named_by_weights_budget_and_noise(tmp_path: Path, zoo: Path) -> None:
    teacher, noise = load(f"{TASK}/tiny").method, TASKS.resolve(TASK)().source.sample(8, generator(1))
    assert isinstance(teacher, VelocityFlow)
    two, three = Sampler("euler", 2), Sampler("euler", 3)
    with remembering(teacher, tmp_path) as student:
        assert isinstance(student, VelocityFlow)
        for start, budget in ((noise, two), (noise, three), (noise + 1, two), (noise, two)):
            assert torch.equal(student.sample(start, budget), teacher.sample(start, budget))
    with torch.no_grad():
        next(teacher.parameters()).mul_(1.5)
    with remembering(teacher, tmp_path) as student:
        assert isinstance(student, VelocityFlow)
        assert torch.equal(student.sample(noise, two), teacher.sample(noise, two))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["garbage", "another tensor", "other numbers"])
def test_damaged_samples_of_a_teacher_are_made_again(damage: str, tmp_path: Path, zoo: Path) -> None:
    teacher, noise = load(f"{TASK}/tiny").method, TASKS.resolve(TASK)().source.sample(8, generator(1))
    for attempt in range(2):
        with remembering(teacher, tmp_path) as student:
            assert student is not None
            assert torch.equal(student.sample(noise, Sampler("euler", 2)), teacher.sample(noise, Sampler("euler", 2)))
        (path,) = tmp_path.iterdir()
        if attempt == 0 and damage == "garbage":
            path.write_bytes(b"no samples")
        elif attempt == 0:
            save_file({"samples" if damage == "other numbers" else "x": noise}, path, {"sha256": "0"})


@pytest.mark.parametrize("content", [b"garbage", b""])
def test_a_damaged_checkpoint_is_refused_in_one_line(content: bytes, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged \(.*\); delete it to start from the first step"):
        train(tiny_recipe(TASK, "cfm"), tmp_path)
    torch.save([1, 2], tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="is damaged"):
        train(tiny_recipe(TASK, "cfm"), tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_another_teacher_is_not_continued(zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    """The name of the teacher is the same, its weights are not."""
    teacher = shutil.copytree(zoo / TASK / "tiny", tmp_path / TASK / "teacher")
    other = train(tiny_recipe(TASK, "cfm", **{"train.seed": 5}), tmp_path / "other")
    recipe = tiny_recipe(TASK, "reflow", teacher=str(teacher), **{"method.pairs": 256, "train.steps": 4})
    steps: list[int] = []
    train(recipe, tmp_path / "entry", max_steps=2)
    shutil.rmtree(teacher)
    shutil.copytree(other, teacher)
    with pytest.raises(ValueError, match="is of another recipe or teacher"):
        train(recipe, tmp_path / "entry")
    train(recipe, tmp_path / "entry", overwrite=True, report=lambda step, loss: steps.append(step))
    assert steps == [1, 2, 3, 4]
    assert weights(tmp_path / "entry") == weights(train(recipe, tmp_path / "straight"))


def test_another_budget_cannot_be_trained_as_closed(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match=r"entry.recipe.toml: division is closed, but net\.\w+ is"):
        train(tiny_recipe(TASK, "cfm", division="closed"), tmp_path / "entry")


def test_a_teacher_of_another_network_is_refused_in_one_line(
    zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    wide = tiny_recipe(TASK, "reflow", teacher=f"{TASK}/tiny", **{"net.width": 24})
    with pytest.raises(
        ValueError, match=f"the network of teacher {TASK}/tiny is not that of the recipe: size mismatch"
    ):
        train(wide, tmp_path / "entry")
    none = tiny_recipe(TASK, "reflow", teacher=f"{TASK}/tiny", **{"method.pairs": 0})
    with pytest.raises(ValueError, match="pairs must be at least 1, got 0"):
        train(none, tmp_path / "entry")
    odd = tiny_recipe("digits", "cfm", conditional=True, **{"method.label_dropout": 2.0})
    with pytest.raises(ValueError, match=r"label_dropout must be in \[0, 1\], got 2.0"):
        train(odd, tmp_path / "other")


def test_a_diverging_loss_stops_with_the_step(
    tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(TASK, "cfm", **{"train.lr": 1e30, "train.schedule": "constant"})
    with pytest.raises(
        ValueError, match=r"training loss became (nan|inf) at step \d+; lower train.lr or set train.clip"
    ):
        train(recipe, tmp_path / "x")
    assert not (tmp_path / "x" / WEIGHTS).exists()


def test_weights_that_are_not_finite_never_replace_a_checkpoint(
    tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient that overflows leaves a finite loss behind and NaN weights: the fifth step is not saved, the fourth stays."""
    recipe, out = tiny_recipe(TASK, "cfm"), tmp_path / "x"
    step = torch.optim.AdamW.step

    def overflowing(self: torch.optim.AdamW) -> None:
        moments = next(iter(self.state.values()), {})
        if float(moments.get("step", 0)) == 4:
            self.param_groups[0]["params"][0].grad.fill_(torch.inf)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", overflowing)
        with pytest.raises(ValueError, match=r"weights are no longer finite after step 5; lower train\.lr or set"):
            train(recipe, out, checkpoint_seconds=0.0)
    state = torch.load(out / CHECKPOINT, weights_only=True)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["method"].values())


def test_a_last_step_that_overflows_makes_no_entry(
    tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step

    def overflowing(self: torch.optim.AdamW) -> None:
        self.param_groups[0]["params"][0].grad.fill_(torch.inf)
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", overflowing)
    with pytest.raises(ValueError, match="weights are no longer finite after step 1"):
        train(tiny_recipe(TASK, "cfm", **{"train.steps": 1}), tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []


def test_checkpoints_follow_the_clock(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    """Seven seconds a step and a checkpoint due after twenty: one every third step, and the time adds up over a resume."""
    out, saved = tmp_path / "x", []

    def ticking() -> Callable[[], float]:
        ticks = itertools.count(1000.0, 7.0)
        return lambda: next(ticks)

    def look(step: int, loss: float) -> None:
        path = out / CHECKPOINT
        saved.append(torch.load(path, weights_only=True)["step"] if path.exists() else 0)

    recipe = tiny_recipe(TASK, "cfm", **{"train.steps": 8})
    train(recipe, out, max_steps=7, checkpoint_seconds=20.0, clock=ticking(), report=look)
    assert saved == [0, 0, 3, 3, 3, 6, 6]
    assert torch.load(out / CHECKPOINT, weights_only=True)["seconds"] == 49.0
    train(recipe, out, clock=ticking())
    assert read(out / "recipe.toml").made["seconds"] == 56.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_another_device(
    first: str, second: str, unbroken: Path, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    out = tmp_path / "x"
    train(tiny_recipe(TASK, "cfm"), out, max_steps=15, device=first)
    state = torch.load(out / CHECKPOINT, weights_only=True)
    assert {value.device.type for value in state["average"].values()} == {"cpu"}
    train(tiny_recipe(TASK, "cfm"), out, device=second)
    for name, value in load_file(out / WEIGHTS).items():
        torch.testing.assert_close(value, load_file(unbroken / WEIGHTS)[name], atol=1e-3, rtol=0)


def test_an_unwritable_folder_is_named_before_any_work(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match=r"cannot write in .*file/entry: .*; choose another folder with --out"):
        train(tiny_recipe(TASK, "cfm"), tmp_path / "file" / "entry")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method.sgma": 0.1}, r"\[method\]: unknown key 'sgma'; nearest: sigma; allowed: label_dropout, sigma"),
        ({"method.sigma": "wide"}, r"\[method\]: sigma must be float, got 'wide' \(str\)"),
        ({"net.depht": 2}, r"\[net\]: unknown key 'depht'; nearest: depth"),
        ({"net.name": "mpl"}, "unknown net 'mpl'; nearest: mlp"),
        ({"method.name": "cmf"}, "unknown method 'cmf'; nearest: .*cfm"),
        ({"task": "mixture-3d"}, "unknown task 'mixture-3d'; nearest: mixture-"),
        ({"method": {"name": "oracle"}}, "oracle has nothing to train"),
        ({"method": {"name": "classifier"}}, "a classifier needs the network cnn, got mlp"),
    ],
)
def test_bad_recipes_are_named(settings: dict, words: str, tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match=words):
        train(tiny_recipe(TASK, "cfm", **settings), tmp_path / "x")


def test_training_never_shares_random_numbers_with_evaluation(
    zoo: Path, tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the training seed and the evaluation seed are, equal or not."""
    used: set[int] = set()

    def recorded(*key: int) -> torch.Generator:
        made = noise.generator(*key)
        used.add(made.initial_seed())
        return made

    monkeypatch.setattr(training, "generator", recorded)
    monkeypatch.setattr("fmbench.training.steps.generator", recorded)
    monkeypatch.setattr("fmbench.methods.rectified_flow.generator", recorded)
    train(tiny_recipe(TASK, "cfm", **{"train.steps": 5}), tmp_path / "x")
    teacher_pairs(TASKS.resolve(TASK)(), load(f"{TASK}/tiny").method, 300, Sampler("euler", 1))
    assert len(used) >= 7

    evaluated: set[int] = set()

    def sample(n: int, random: torch.Generator) -> torch.Tensor:
        evaluated.add(random.initial_seed())
        return torch.zeros(n)

    for seed in (0, 1, 2209):
        for stream in noise.STREAMS:
            noise.draw(sample, 0, 8 * noise.BLOCK, seed, stream)
    assert len(evaluated) == 3 * len(noise.STREAMS) * 8
    assert not used & evaluated


def test_the_card_of_an_image_entry_shows_what_its_weights_draw(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    from PIL import Image

    from fmbench.zoo.pictures import grid

    folder = train(tiny_recipe("digits", "cfm", **{"train.steps": 2}), tmp_path / "digits" / "tiny")
    state = torch.random.get_rng_state()
    model = fmbench.load(str(folder))
    assert torch.equal(torch.random.get_rng_state(), state), "loading must not consume the caller's random numbers"
    drawn = np.asarray(Image.open(folder / "samples.png"))
    np.testing.assert_array_equal(drawn, np.asarray(grid(model.sample(64, seed=0, steps=32))))
    card = (folder / "README.md").read_text()
    assert all(f"]({name})" in card for name in ("samples.png", "trajectory.png"))
    assert "guidance" not in card and not (folder / "classes.png").exists()
    (folder / "samples.png").unlink()
    assert main(["card", str(folder)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "samples.png")), drawn)


@pytest.mark.slow
def test_the_card_of_a_map_shows_one_jump_and_the_trajectories_of_its_velocity(
    tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    from PIL import Image

    from fmbench.zoo.pictures import grid

    folder = train(tiny_recipe("digits", "meanflow", **{"train.steps": 2}), tmp_path / "digits" / "tiny")
    drawn = np.asarray(Image.open(folder / "samples.png"))
    np.testing.assert_array_equal(drawn, np.asarray(grid(fmbench.load(str(folder)).sample(64, seed=0, steps=1))))
    assert (folder / "trajectory.png").is_file()


@pytest.mark.slow
def test_the_card_of_a_conditional_entry_shows_a_row_per_class(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    from PIL import Image

    from fmbench.zoo.pictures import to_uint8

    folder = train(tiny_recipe("digits", "cfm", conditional=True, **{"train.steps": 2}), tmp_path / "digits" / "tiny")
    model = fmbench.load(str(folder))
    card = (folder / "README.md").read_text()
    assert "](classes.png)" in card and "steps=32, guidance=2.0)" in card
    drawn = np.asarray(Image.open(folder / "classes.png"))
    labels = torch.arange(10).repeat_interleave(10)
    fourth = model.sample(100, seed=0, steps=32, labels=labels, guidance=2.0)[3 * 10 + 7]
    scale = 40 // 8
    np.testing.assert_array_equal(
        drawn[scale * (3 * 9 + 1) : scale * 4 * 9 : scale, scale * (7 * 9 + 1) : scale * 8 * 9 : scale],
        to_uint8(fourth)[0],
    )
    undropped = override(read(folder / "recipe.toml"), {"method.label_dropout": 0.0})
    never_null = train(undropped, tmp_path / "digits" / "undropped")
    assert not (never_null / "classes.png").exists()


def test_a_loss_with_a_schedule_is_told_how_much_of_the_training_is_done(
    tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(CFM, "pair", lambda self, batch, generator: (told.append(batch.progress), batch)[1])
    train(tiny_recipe(TASK, "cfm", **{"train.steps": 4}), tmp_path / "out", max_steps=3)
    train(tiny_recipe(TASK, "cfm", **{"train.steps": 4}), tmp_path / "out")
    assert told == [0.0, 0.25, 0.5, 0.75]
