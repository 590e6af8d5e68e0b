"""A recipe for a model that another library published: what its repository, or a table, says of it, in the words of a recipe, pinned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fmbench.methods.published import Published
from fmbench.nets.published import DIFFUSERS, TRANSFORMER
from fmbench.paths.schedules import BETAS
from fmbench.records.foreign import PIN
from fmbench.records.names import check_entry_name
from fmbench.records.pins import Weights
from fmbench.records.recipe import Recipe, parse
from fmbench.records.tables import shown
from fmbench.storage import repository
from fmbench.storage.files import file_sha256
from fmbench.storage.readers import MEBIBYTE, one_line, read_json, read_toml
from fmbench.storage.repository import Address, Listed
from fmbench.tasks.base import Task
from fmbench.zoo import saving, sources, weight_file
from fmbench.zoo.building import build, outline
from fmbench.zoo.sources import require_announced, require_safe

FOLDERS = ("", "unet/", "transformer/")
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
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
    weights = _weights(address, files, folder + WEIGHTS)
    said = next((_json(address, files, name) for name in SCHEDULERS if name in files), {})
    classes = config.get("num_class_embeds") or kind == TRANSFORMER
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


def described(text: str, task: Task, path: Path) -> Recipe:
    """The recipe of ``hf:owner/name@revision`` whose ``[foreign]`` table is in a TOML file, without what is pinned here.

    For what no configuration in the repository describes: library, network, its config, file, and how it is read. Raises ValueError in one line
    for a table that says something else than the repository, or that is none, and what :func:`recipe_of` raises.
    """
    asked = repository.parse_address(text)
    content = read_toml(path, "file with a [foreign] table")
    given = content.get("foreign")
    if not isinstance(given, Mapping) or not isinstance(given.get("file"), str):
        raise ValueError(f"{path}: needs a table [foreign] with file, library, network and how it is read")
    address = Address(asked.repo, repository.commit_of(asked))
    weights = _weights(address, repository.listing(address), given["file"])
    found = {"repo": address.repo, "revision": address.revision}
    found |= {key: getattr(weights, key) for key in PIN}
    for key, value in found.items():
        if given.get(key, value) != value:
            raise ValueError(f"{path} [foreign]: {key} is {shown(given[key])}, and {address} has {value}")
    return parse({"task": task.name, "license": LICENSE, **content, "foreign": {**given, **found}}, str(path))


def write(text: str, task: Task, out: Path, table: Path | None = None) -> Path:
    """Write the folder of an entry for a published model; returns the recipe's path. Raises ValueError for one that has a recipe already.

    ``table`` is a file with its ``[foreign]`` table, where the repository does not describe it (:func:`described`).
    """
    check_entry_name(out.resolve().name, "the folder of an entry")
    if (out / "recipe.toml").exists():
        raise ValueError(f"{out} holds a recipe already; give another --out")
    made = recipe_of(text, task) if table is None else described(text, task, table)
    _require_loadable(made, task, str(table or text))
    made.save(out / "recipe.toml")
    return out / "recipe.toml"


def _require_loadable(recipe: Recipe, task: Task, where: str) -> None:
    """Raise ValueError in one line for words or a network that cannot be built, and for weights that are not those of that network."""
    assert recipe.weights is not None
    plan = outline(recipe, task, Published, where) or build(recipe, task, Published, where)
    file = sources.fetch_weights(recipe.weights)
    saving.require_fit(weight_file.read_header(file), saving.layout(plan, recipe.train.storage), recipe.weights.file)


def _json(address: Address, files: Mapping[str, Listed], name: str) -> dict[str, Any]:
    if files[name].bytes > MEBIBYTE:
        raise ValueError(f"{address}: {name} has {files[name].bytes:,} bytes, and at most {MEBIBYTE:,} are read")
    found = read_json(repository.fetch(address, {name: files[name].bytes}) / name, f"{name} of {address}")
    if not isinstance(found, dict):
        raise ValueError(f"{address}: {name} must be a table, got {type(found).__name__}")
    return found


def _weights(address: Address, files: Mapping[str, Listed], name: str) -> Weights:
    """The pinned weight file, downloaded; its hash is the one that the Hub announces where it announces one."""
    require_safe(name, str(address))
    if name not in files:
        folder = name.rpartition("/")[0]
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
    read = READERS.get(kind) if isinstance(kind, str) else None
    try:
        words = None if read is None else read(said)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{address}: the configuration of {kind} cannot be read: {one_line(error)}") from None
    if words is None:
        beta, prediction = said.get("beta_schedule", "linear"), said.get("prediction_type")
        raise ValueError(
            f"{address}: the schedule of {kind!r:.60} ({beta!r:.40}, {prediction!r:.40}) is not one that is read; "
            "fmbench.wrap takes the network with a schedule of your own"
        )
    return words


def _flow_matching(said: Mapping[str, Any]) -> dict[str, Any] | None:
    if any(said.get(key) for key in ("use_dynamic_shifting", "shift_terminal", "invert_sigmas", "stochastic_sampling")):
        return None
    other = any(said.get(f"use_{name}_sigmas") for name in ("karras", "exponential", "beta"))
    if other or said.get("num_train_timesteps", 1000) != 1000:
        return None
    return {"time": "data_at_0", "time_scale": 1000.0, "grid": "shifted", "shift": float(said.get("shift", 1.0))}


def _ddim(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of DDIM and DDPM; models of both are stepped through as DDIM steps, without noise."""
    beta, spacing = said.get("beta_schedule", "linear"), said.get("timestep_spacing", "leading")
    prediction = PREDICTIONS.get(str(said.get("prediction_type", "epsilon")))
    known = beta in BETAS and spacing in SPACINGS and prediction
    offset = int(said.get("steps_offset", 0)) if spacing == "leading" else 0
    ends_at_data = bool(said.get("set_alpha_to_one", True))
    # Without it the last step goes to index 0, which is the one where it starts unless it is moved.
    known = known and (ends_at_data or offset or spacing == "trailing")
    if not known or any(said.get(key) for key in ("rescale_betas_zero_snr", "thresholding", "trained_betas")):
        return None
    return {
        "predicts": prediction,
        "schedule": "ddpm",
        "time": "index",
        "grid": spacing,
        "betas": [float(said.get("beta_start", 1e-4)), float(said.get("beta_end", 0.02))],
        "beta_kind": beta,
        "levels": int(said.get("num_train_timesteps", 1000)),
        "offset": offset,
        "last": -1 if ends_at_data else 0,
        "clip": float(said.get("clip_sample_range", 1.0)) if said.get("clip_sample", True) else 0.0,
    }


def _edm(said: Mapping[str, Any]) -> dict[str, Any] | None:
    plain = said.get("prediction_type", "epsilon") == "epsilon" and said.get("final_sigmas_type", "zero") == "zero"
    if not plain or said.get("sigma_schedule", "karras") != "karras":
        return None
    most = float(said.get("sigma_max", 80.0))
    return {
        "predicts": "edm",
        "schedule": "edm",
        "time": "log_sigma_4",
        "grid": "karras",
        "sigmas": [float(said.get("sigma_min", 0.002)), most],
        "start": math.sqrt(most**2 + 1),
        "rho": float(said.get("rho", 7.0)),
        "sigma_data": float(said.get("sigma_data", 0.5)),
    }


READERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "FlowMatchEulerDiscreteScheduler": _flow_matching,
    "FlowMatchHeunDiscreteScheduler": _flow_matching,
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddim,
    "EDMEulerScheduler": _edm,
}
"""Schedulers of diffusers whose configuration is read; the words that a reader gives, None for settings that it does not know."""


def _require_shape(config: Mapping[str, Any], task: Task, address: Address) -> None:
    size, channels = config.get("sample_size"), config.get("in_channels")
    if isinstance(size, int):
        size = [size, size]
    if [channels, *(size or ())] != list(task.shape):
        raise ValueError(
            f"{address} makes samples of shape {[channels, *(size or ())]}, and {task.name} has {list(task.shape)}"
        )
