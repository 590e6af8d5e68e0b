"""Checkpoints: checked in every field before they are used, bounded before they are read, there until the entry is whole."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fmbench.records.recipe import Recipe, read
from fmbench.training.run import CHECKPOINT, train
from fmbench.zoo.resolve import load

MakeRecipe = Callable[..., Recipe]
TASK = "gaussian-8gaussians"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def damaged(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


FIELDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "step a float": (lambda s: s.update(step=3.0), "step is 3.0"),
    "step beyond": (lambda s: s.update(step=10**9), "step is 1000000000"),
    "step a bool": (lambda s: s.update(step=True), "step is True"),
    "step negative": (lambda s: s.update(step=-1), "step is -1"),
    "seconds nan": (lambda s: s.update(seconds=float("nan")), "seconds is nan"),
    "no average": (lambda s: s.pop("average"), "average has other names"),
    "average behind": (lambda s: s["average"]["n_averaged"].add_(1), "average is of another step"),
    "shape": (lambda s: s["method"].update({"net.layers.0.bias": torch.zeros(3)}), "net.layers.0.bias is not a tensor of shape"),
    "dtype": (lambda s: s["method"].update({"net.layers.0.bias": torch.zeros(16).double()}), "net.layers.0.bias"),
    "sparse": (lambda s: s["method"].update({"net.layers.0.bias": torch.zeros(16).to_sparse()}), "net.layers.0.bias"),
    "name": (lambda s: s["method"].update(extra=torch.zeros(1)), "method has other names"),
    "moments": (lambda s: s["optimiser"]["state"][0].update(exp_avg=torch.zeros(2, 2)), "exp_avg 0 is not a tensor"),
    "no moments": (lambda s: s["optimiser"]["state"][0].pop("exp_avg_sq"), "not that of adamw"),
    "groups": (lambda s: s["optimiser"]["param_groups"].append({}), "other groups"),
    "betas": (lambda s: s["optimiser"]["param_groups"][0].update(betas=(2.0, 3.0)), "another betas"),
    "name of the optimiser": (lambda s: s.update(optimiser_name="sgd"), "optimiser_name is 'sgd', not adamw"),
    "optimiser": (lambda s: s.update(optimiser=[1]), "no state of adamw"),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_a_checkpoint_is_checked_in_every_field_before_it_is_used(
    case: str, tmp_path: Path, tiny_recipe: MakeRecipe
) -> None:
    change, words = FIELDS[case]
    out = tmp_path / "entry"
    train(tiny_recipe(TASK, "cfm"), out, max_steps=3)
    damaged(out / CHECKPOINT, change)
    before = content(out)
    with pytest.raises(ValueError, match=rf"checkpoint.pt is damaged \(.*{words}.*\); delete it") as caught:
        train(tiny_recipe(TASK, "cfm"), out)
    assert "\n" not in str(caught.value)
    assert content(out) == before


def test_checkpoints_are_bounded_before_they_are_read(tmp_path: Path, tiny_recipe: MakeRecipe) -> None:
    out = tmp_path / "entry"
    train(tiny_recipe(TASK, "cfm"), out, max_steps=1)
    path = out / CHECKPOINT
    good = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match=r"is damaged \(it has more than \d+ bytes\)"):
        train(tiny_recipe(TASK, "cfm"), out)
    path.write_bytes(good)
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    with pytest.raises(ValueError, match=r"is damaged \(it is compressed\)"):
        train(tiny_recipe(TASK, "cfm"), out)


def test_a_kill_between_weights_and_recipe_leaves_a_folder_that_says_what_to_do(
    tmp_path: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = tiny_recipe(TASK, "cfm"), tmp_path / "entry"

    class Killed(BaseException):
        pass

    def dies(self: Recipe, path: Path) -> None:
        raise Killed

    hint = r"a training was interrupted in .*entry: run the same `fmbench train` command again to finish it"
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "save", dies)
        with pytest.raises(Killed):
            train(recipe, out)
    assert sorted(p.name for p in out.iterdir()) == [CHECKPOINT, "model.safetensors"]
    with pytest.raises(FileNotFoundError, match=hint):
        load(str(out))
    train(recipe, out)
    whole = content(out)
    other = tiny_recipe(TASK, "cfm", **{"train.seed": 5})
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "save", dies)
        with pytest.raises(Killed):
            train(other, out, overwrite=True)
    assert (out / "recipe.toml").read_bytes() == whole["recipe.toml"]
    with pytest.raises(ValueError, match=rf"SHA-256 expected .*; {hint}"):
        load(str(out))
    train(other, out)
    assert load(str(out)).recipe == read(out / "recipe.toml")
