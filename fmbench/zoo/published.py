"""A recipe for a model that was published with diffusers: what its repository says, in the words of a recipe, its weights pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fmbench.methods.published import BETAS
from fmbench.nets.published import DIFFUSERS
from fmbench.records.names import check_entry_name
from fmbench.records.pins import Weights
from fmbench.records.recipe import Recipe, parse
from fmbench.storage import repository
from fmbench.storage.files import file_sha256
from fmbench.storage.readers import MEBIBYTE, read_json
from fmbench.storage.repository import Address, Listed
from fmbench.tasks.base import Task
from fmbench.zoo import weight_file
from fmbench.zoo.sources import require_announced, require_safe

FOLDERS = ("", "unet/", "transformer/")
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
TABLES = ("DDIMScheduler", "DDPMScheduler")
"""Schedulers whose tables of noise levels are read; models of both are stepped through as DDIM steps, without noise."""
SPACINGS = ("leading", "trailing")
"""Spacings of indices that diffusers' DDIM steps along; with others it steps to levels where it does not ask the network next."""
LICENSE = "as its repository says"


def recipe_of(text: str, task: Task) -> Recipe:
    """The recipe of ``hf:owner/name@revision`` for a task, its weights downloaded once to be pinned; nothing of the repository is executed.

    Raises ValueError in one line for a repository that holds no network of :data:`~fmbench.nets.published.DIFFUSERS` in safetensors, for a
    scheduler that is not known, and for samples of another shape than the task's; and what the client raises.
    """
    asked = repository.parse_address(text)
    address = Address(asked.repo, repository.commit_of(asked))
    files = repository.listing(address)
    folder = next((place for place in FOLDERS if place + "config.json" in files), None)
    if folder is None:
        raise ValueError(
            f"{address} has no config.json of diffusers; fmbench.wrap takes any network that you have loaded"
        )
    config = _json(address, files, folder + "config.json")
    kind = config.get("_class_name")
    if kind not in DIFFUSERS:
        raise ValueError(
            f"{address} holds a {kind!r:.60}, and of diffusers {', '.join(DIFFUSERS)} are read; use fmbench.wrap"
        )
    weights = _weights(address, files, folder)
    said = next((_json(address, files, name) for name in SCHEDULERS if name in files), {})
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    net = {"name": "diffusers", "network": kind, "config": _plain(config)}
    content = {
        "task": task.name,
        "method": {"name": "published", **_reading(said, address)},
        "net": net,
        "division": "open",
        "conditional": bool(classes),
        "license": LICENSE,
    }
    _require_shape(config, task, address)
    return replace(parse(content, str(address)), weights=weights)


def write(text: str, task: Task, out: Path) -> Path:
    """Write the folder of an entry for a published model; returns the recipe's path. Raises ValueError for one that has a recipe already."""
    check_entry_name(out.resolve().name, "the folder of an entry")
    if (out / "recipe.toml").exists():
        raise ValueError(f"{out} holds a recipe already; give another --out")
    made = recipe_of(text, task)
    made.save(out / "recipe.toml")
    return out / "recipe.toml"


def _json(address: Address, files: Mapping[str, Listed], name: str) -> dict[str, Any]:
    if files[name].bytes > MEBIBYTE:
        raise ValueError(f"{address}: {name} has {files[name].bytes:,} bytes, and at most {MEBIBYTE:,} are read")
    found = read_json(repository.fetch(address, {name: files[name].bytes}) / name, f"{name} of {address}")
    if not isinstance(found, dict):
        raise ValueError(f"{address}: {name} must be a table, got {type(found).__name__}")
    return found


def _weights(address: Address, files: Mapping[str, Listed], folder: str) -> Weights:
    """The pinned weight file, downloaded; its hash is the one that the Hub announces where it announces one."""
    name = folder + WEIGHTS
    if name not in files:
        pickled = next((n for n in sorted(files) if n.startswith(folder) and n.endswith(".bin")), None)
        if pickled is not None:
            require_safe(pickled, str(address))
        raise ValueError(f"{address} has no {name}, the weights in safetensors")
    announced = files[name]
    path = repository.fetch(address, {name: announced.bytes}) / name
    header = weight_file.read_header(path)
    numbers = 0
    for dtype, shape in header.values():
        if dtype != "F32":
            raise ValueError(f"{address}: {name} holds {dtype}, and float32 is read")
        size = 1
        for length in shape:
            size *= length
        numbers += size
    pinned = Weights(name, file_sha256(path), announced.bytes, numbers, str(address))
    require_announced(announced, pinned, address)
    return pinned


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network: no private keys, and none without a value, which TOML cannot write."""
    return {key: value for key, value in config.items() if not key.startswith("_") and value is not None}


def _reading(said: Mapping[str, Any], address: Address) -> dict[str, Any]:
    """How the network is read, from the configuration of its scheduler. Raises ValueError for one that is not known."""
    kind = said.get("_class_name")
    if kind == "FlowMatchEulerDiscreteScheduler" and not said.get("use_dynamic_shifting"):
        shift = float(said.get("shift", 1.0))
        return {"time": "data_at_0", "time_scale": 1000.0, "grid": "shifted", "shift": shift}
    beta, spacing = said.get("beta_schedule", "linear"), said.get("timestep_spacing", "leading")
    prediction = PREDICTIONS.get(str(said.get("prediction_type", "epsilon")))
    known = kind in TABLES and beta in BETAS and spacing in SPACINGS and prediction
    known = known and not said.get("rescale_betas_zero_snr") and said.get("set_alpha_to_one", True)
    if not known or said.get("num_train_timesteps", 1000) != 1000:
        raise ValueError(
            f"{address}: the schedule of {kind!r:.60} ({beta!r:.40}, {said.get('prediction_type')!r:.40}) is not one that is read; "
            "fmbench.wrap takes the network with a schedule of your own"
        )
    betas = [float(said.get("beta_start", 1e-4)), float(said.get("beta_end", 0.02))]
    return {
        "predicts": prediction,
        "schedule": "ddpm",
        "time": "index",
        "grid": spacing,
        "betas": betas,
        "beta_kind": beta,
    }


def _require_shape(config: Mapping[str, Any], task: Task, address: Address) -> None:
    size, channels = config.get("sample_size"), config.get("in_channels")
    if isinstance(size, int):
        size = [size, size]
    if [channels, *(size or ())] != list(task.shape):
        raise ValueError(
            f"{address} makes samples of shape {[channels, *(size or ())]}, and {task.name} has {list(task.shape)}"
        )
