"""A benchmark is a versioned protocol: a TOML file under ``leaderboard/protocols``, identified by the hash of its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmbench.records.metric import METRICS
from fmbench.records.names import check_name
from fmbench.records.pins import MOST_REPLICATES
from fmbench.records.recipe import check_table
from fmbench.records.sampler import MOST_STEPS, Sampler
from fmbench.registry import SOLVERS, TASKS, UnknownName, nearest
from fmbench.storage.bundled import data_folder, list_benchmarks
from fmbench.storage.files import fingerprint
from fmbench.storage.readers import read_toml


@dataclass(frozen=True)
class Protocol:
    """Tasks, sample counts, seeds, NFE grid and metrics of a benchmark.

    Attributes:
        name, version, summary: identity; any change of content changes the hash, a change of meaning raises the version.
        tasks: task names.
        samples: samples per evaluation seed.
        seeds: evaluation seeds; the noise contract keys everything on them.
        samplers: the NFE grid.
        metrics: names of metrics; those that do not apply to a task are recorded as null with the reason.
        flow: ``samples`` and ``steps`` of the reference solve; ``probes`` points and ``probe_steps`` for metrics that look at the field itself.
        latency: ``batches``, sizes in rising order, and ``seconds`` for each, by sampler.
        rank: primary metric by task kind or task name, and ``steps``, the budget at which entries are ranked.
        trainings: how many trainings of an entry that has several are evaluated.
    """

    name: str
    version: int
    summary: str
    tasks: tuple[str, ...]
    samples: int
    seeds: tuple[int, ...]
    samplers: tuple[Sampler, ...]
    metrics: tuple[str, ...]
    flow: Mapping[str, int]
    latency: Mapping[str, Any]
    rank: Mapping[str, Any]
    trainings: int = 1
    sha256: str = field(default="", compare=False)


LARGEST = 100_000_000
"""Upper limit of samples, seeds and steps, to catch typing errors."""
_KEYS: dict[str, Any] = {
    "name": str, "version": int, "summary": str, "tasks": tuple[str, ...], "samples": int, "seeds": tuple[int, ...],
    "samplers": tuple[dict, ...], "metrics": tuple[str, ...], "flow": dict, "latency": dict, "rank": dict,
}  # fmt: skip
_OPTIONAL = {"trainings": int}
_READ_NO_MORE = {"keeps": tuple[str, ...]}
"""Keys of earlier versions of fmbench: allowed, because a protocol's hash is that of its whole content, and without effect."""
_TABLES = {
    "flow": {"samples": int, "steps": int, "probes": int, "probe_steps": int},
    "latency": {"batches": tuple[int, ...], "seconds": float},
}
_SAMPLER_KEYS = {"solver": str, "steps": int, "guidance": float}


def _count(value: int, where: str, least: int = 1, most: int = LARGEST) -> None:
    if not least <= value <= most:
        raise ValueError(f"{where} must be at least {least} and at most {most}, got {value}")


def _several(values: Sequence[Any], where: str) -> None:
    """Raise ValueError for a list that is empty or names something twice."""
    if not values:
        raise ValueError(f"{where} is empty; name at least one")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{where} has {value} twice")


def _samplers(tables: Sequence[Mapping[str, Any]], where: str) -> tuple[Sampler, ...]:
    """The samplers of a protocol, each of which its solver can carry out."""
    samplers = []
    for table in tables:
        check_table(table, _SAMPLER_KEYS, where)
        if "solver" not in table:
            raise ValueError(f"{where}: missing solver")
        if table["solver"] not in SOLVERS.all():
            raise ValueError(f"{where}: {nearest('solver', table['solver'], SOLVERS.all())}")
        try:
            sampler = Sampler(**table)
            sampler.make_solver()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        samplers.append(sampler)
    _several([sampler.label for sampler in samplers], where)
    return tuple(samplers)


def _check_settings(content: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for numbers in ``[flow]`` and ``[latency]`` that nothing can be measured with."""
    flow, latency = content["flow"], content["latency"]
    for key in ("samples", "probes"):
        _count(flow[key], f"{where} [flow]: {key}")
    for key in ("steps", "probe_steps"):
        _count(flow[key], f"{where} [flow]: {key}", 2, MOST_STEPS)
        if flow[key] % 2:
            raise ValueError(f"{where} [flow]: {key} must be even, got {flow[key]}")
    _several(latency["batches"], f"{where} [latency]: batches")
    for batch in latency["batches"]:
        _count(batch, f"{where} [latency]: batches")
    if list(latency["batches"]) != sorted(latency["batches"]):
        raise ValueError(f"{where} [latency]: batches must increase, got {list(latency['batches'])}")
    if not 0 <= latency["seconds"] <= 3600:
        raise ValueError(f"{where} [latency]: seconds must be from 0 to 3600, got {latency['seconds']}")


def check_rank(table: Mapping[str, Any], tasks: Sequence[str], where: str) -> None:
    """Raise ValueError for a ``[rank]`` table that ranks nothing.

    Its keys are ``steps``, the kinds of task and names of ``tasks``; its values metrics that have a better side.
    """
    check_table(table, {"vector": str, "image": str, "steps": int, **dict.fromkeys(tasks, str)}, where)
    if "steps" in table:
        _count(table["steps"], f"{where}: steps", 1, MOST_STEPS)
    for key, metric in table.items():
        if key == "steps":
            continue
        if metric not in METRICS:
            raise ValueError(f"{where}: {key}: {nearest('metric', metric, METRICS)}")
        if METRICS[metric].better == "neither" or METRICS[metric].scope != "samples":
            raise ValueError(
                f"{where}: {key}: {metric} cannot rank; it must be measured on samples and have a better side"
            )


def parse(content: Mapping[str, Any], where: str) -> Protocol:
    """Build a protocol from parsed TOML. Raises ValueError naming file, key and what is allowed."""
    check_table(content, _KEYS | _OPTIONAL | _READ_NO_MORE, where)
    if missing := [key for key in _KEYS if key not in content]:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    for table, keys in _TABLES.items():
        check_table(content[table], keys, f"{where} [{table}]")
        if missing := [key for key in keys if key not in content[table]]:
            raise ValueError(f"{where} [{table}]: missing {', '.join(missing)}")
    check_name(content["name"], f"the benchmark of {where}")
    _count(content["version"], f"{where}: version")
    _count(content["samples"], f"{where}: samples")
    trainings = content.get("trainings", 1)
    _count(trainings, f"{where}: trainings", 1, 1 + MOST_REPLICATES)
    for seed in content["seeds"]:
        _count(seed, f"{where}: seeds", 0, 2**32 - 1)
    for key in ("tasks", "seeds", "metrics"):
        _several(content[key], f"{where}: {key}")
    for kind, names, known in (("metric", content["metrics"], METRICS), ("task", content["tasks"], TASKS.all())):
        for name in names:
            if name not in known:
                raise ValueError(f"{where}: {nearest(kind, name, known)}")
    _check_settings(content, where)
    check_rank(content["rank"], content["tasks"], f"{where} [rank]")
    fields: dict[str, Any] = {k: tuple(content[k]) if k in ("tasks", "seeds", "metrics") else content[k] for k in _KEYS}
    fields["samplers"] = _samplers(content["samplers"], f"{where} [[samplers]]")
    return Protocol(**fields, trainings=trainings, sha256=fingerprint(content))


def read(name: str | Path) -> Protocol:
    """The protocol of a benchmark name, or of a path to a TOML file of your own.

    Raises UnknownName, FileNotFoundError or ValueError in one line.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in list_benchmarks():
            raise UnknownName(nearest("benchmark", str(name), list_benchmarks()))
        path = data_folder("leaderboard") / "protocols" / f"{name}.toml"
    return parse(read_toml(path, "protocol"), str(path))
