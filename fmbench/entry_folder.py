"""The folder of a trained entry: weights, the recipe that pins them, and the model card."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import fmbench
from fmbench import catalogue
from fmbench.files import sha256, write_atomic
from fmbench.methods.base import Method
from fmbench.model import method_class
from fmbench.recipe import Recipe, Weights
from fmbench.registry import TASKS

WEIGHTS = "model.safetensors"


def write_entry(recipe: Recipe, method: Method, out: Path, run: Mapping[str, Any]) -> None:
    """Write weights, then the recipe that pins them, then the card.

    ``run`` tells of the training run: ``device``, ``seconds`` and what else is to stand in the recipe's ``[made]`` table.
    """
    from safetensors.torch import save as to_safetensors

    dtype = getattr(torch, recipe.train.storage)
    state = {k: v.detach().cpu().to(dtype).contiguous() for k, v in method.state_dict().items()}
    data = to_safetensors(state)
    write_atomic(out / WEIGHTS, data)
    parameters = sum(v.numel() for v in state.values())
    device = run["device"]
    made = {
        "fmbench": fmbench.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "samples_seen": recipe.train.steps * recipe.train.batch_size,
        "seconds": round(run["seconds"], 1),
        "threads": torch.get_num_threads(),
        **{key: value for key, value in run.items() if key not in ("device", "seconds")},
        **method.diagnostics(TASKS.resolve(recipe.task)()),
    }
    if recipe.teacher:
        teacher = catalogue.find(recipe.teacher).recipe.weights
        made["teacher_sha256"] = teacher.sha256 if teacher else ""
    finished = dataclasses.replace(recipe, weights=Weights(WEIGHTS, sha256(data), len(data), parameters), made=made)
    finished.save(out / "recipe.toml")
    write_atomic(out / "README.md", card(finished, out.resolve().name))


def card(recipe: Recipe, entry: str) -> str:
    """The Hub model card: YAML metadata and what a stranger needs to know."""
    from huggingface_hub import ModelCardData

    assert recipe.weights is not None
    metadata = ModelCardData(
        license=recipe.license,
        library_name="fmbench",
        tags=["flow-matching", "generative", recipe.task, recipe.method["name"].rpartition(":")[2]],
    )
    name = f"{recipe.task}/{entry}"
    kind = method_class(recipe.method["name"])
    settings = ", ".join(f"{k} {v}" for k, v in recipe.method.items() if k != "name") or "defaults"
    teacher = f"\n- teacher: `{recipe.teacher}` (initial weights and pairs)" if recipe.teacher else ""
    use = (
        ""
        if recipe.division == "tool"
        else f"""
```python
import fmbench
model = fmbench.load("{name}")
x = model.sample(64, seed=0{"" if kind.steps_allowed else ', solver="euler", steps=32'})
```
"""
    )
    figures = "".join(
        f"\n- {k.replace('_', ' ')}: {v}" for k, v in recipe.made.items() if isinstance(v, float) and k != "seconds"
    )
    title = kind.summary[:1].upper() + kind.summary[1:] + (f" ({kind.reference})" if kind.reference else "")
    network = ", ".join(f"{k} {v}" for k, v in recipe.net.items())
    budget = f"{recipe.train.steps:,} steps of {recipe.train.batch_size} = {recipe.made['samples_seen']:,} samples seen"
    return f"""---
{metadata.to_yaml()}
---
# {name}

{title}. An entry of the fmbench zoo, made by `fmbench train` from the `recipe.toml` beside this file;
measured results are on the leaderboard, not here.
{use}
- task: `{recipe.task}`, division: {recipe.division}{", class-conditional" if recipe.conditional else ""}
- method: `{recipe.method["name"]}` ({settings})
- network: {network}; {recipe.weights.parameters:,} parameters, stored as {recipe.train.storage}
- training: {budget}, {recipe.made["seconds"]} s on {recipe.made["device"]}{teacher}
- weights: `{recipe.weights.file}`, SHA-256 `{recipe.weights.sha256}`{figures}
"""
