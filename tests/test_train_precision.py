"""Precision that a recipe leaves to the device: bfloat16 where there are units for it, float32 elsewhere, and the entry says which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmbench.records.recipe import Recipe, read
from fmbench.training import precision
from fmbench.training.run import train

TASK = "mixture-2d"
MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("units", "chosen"),
    [({"avx2": True, "avx512_bf16": False}, "float32"), ({"amx_bf16": True}, "bfloat16"), ({"bf16": True}, "bfloat16")],
)
def test_the_device_decides_only_what_the_recipe_leaves_to_it(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    cpu = torch.device("cpu")
    assert precision.precision_on(cpu, "auto") == chosen
    assert [precision.precision_on(cpu, name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert precision.precision_on(torch.device("meta"), "auto") == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_auto_trains_like_what_it_chooses_and_records_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_recipe: MakeRecipe, chosen: str
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda device: chosen == "bfloat16")
    folders = [train(tiny_recipe(TASK, "cfm", **{"train.precision": p}), tmp_path / p) for p in ("auto", chosen)]
    left, said = (read(folder / "recipe.toml") for folder in folders)
    assert left.weights is not None and said.weights is not None
    assert left.weights.sha256 == said.weights.sha256
    assert left.made["precision"] == chosen
    assert "precision" not in said.made
