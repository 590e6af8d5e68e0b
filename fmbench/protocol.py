"""A benchmark is a versioned protocol: a TOML file under ``leaderboard/protocols``, identified by the hash of its content."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbench import catalogue
from fmbench.files import fingerprint
from fmbench.metrics.info import METRICS
from fmbench.recipe import check_table
from fmbench.registry import SOLVERS, TASKS, UnknownName, nearest

if TYPE_CHECKING:
    from fmbench.methods.base import Budget


@dataclass(frozen=True)
class Sampler:
    """One column of the NFE grid. ``steps`` is None for adaptive solvers."""

    solver: str
    steps: int | None = None
    guidance: float = 1.0

    def budget(self) -> Budget:
        """The same as the budget a method samples with."""
        from fmbench.methods.base import Budget

        return Budget(self.solver, self.steps or 1, guidance=self.guidance)

    @property
    def label(self) -> str:
        """Short name for files and tables: ``euler-8``, ``dopri5``, ``euler-8-g2``."""
        parts = [
            self.solver,
            *([str(self.steps)] if self.steps else []),
            *([f"g{self.guidance:g}"] if self.guidance != 1 else []),
        ]
        return "-".join(parts)


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
        keeps: hashes of earlier versions that differ in nothing that concerns the rows of a result (samples, samplers, their metrics and
            latencies): a result of theirs keeps its rows, and only its flow is measured again.
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
    keeps: tuple[str, ...] = ()
    sha256: str = field(default="", compare=False)


_KEYS: dict[str, Any] = {
    "name": str, "version": int, "summary": str, "tasks": tuple[str, ...], "samples": int, "seeds": tuple[int, ...],
    "samplers": list, "metrics": tuple[str, ...], "flow": dict, "latency": dict, "rank": dict, "keeps": tuple[str, ...],
}  # fmt: skip
_TABLES = {
    "flow": {"samples": int, "steps": int, "probes": int, "probe_steps": int},
    "latency": {"batches": tuple[int, ...], "seconds": float},
}
_SAMPLER_KEYS = {"solver": str, "steps": int, "guidance": float}


def parse(content: Mapping[str, Any], where: str) -> Protocol:
    """Build a protocol from parsed TOML. Raises ValueError naming file, key and what is allowed; UnknownName for unknown names."""
    check_table(content, _KEYS, where)
    if missing := [key for key in _KEYS if key not in content and key != "keeps"]:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    ranked_by = {"vector": str, "image": str, "steps": int, **dict.fromkeys(content["tasks"], str)}
    for table, keys in {**_TABLES, "rank": ranked_by}.items():
        check_table(content[table], keys, f"{where} [{table}]")
    for table, keys in _TABLES.items():
        if missing := [key for key in keys if key not in content[table]]:
            raise ValueError(f"{where} [{table}]: missing {', '.join(missing)}")
    for sampler in content["samplers"]:
        check_table(sampler, _SAMPLER_KEYS, f"{where} [[samplers]]")
    for name in content["metrics"]:
        if name not in METRICS:
            raise UnknownName(f"{where}: {nearest('metric', name, METRICS)}")
    for kind, names, known in (
        ("task", content["tasks"], TASKS.all()),
        ("solver", [s["solver"] for s in content["samplers"]], SOLVERS.all()),
    ):
        for name in names:
            if name not in known:
                raise UnknownName(f"{where}: {nearest(kind, name, known)}")
    fields: dict[str, Any] = {
        k: tuple(v) if k in ("tasks", "seeds", "metrics", "keeps") else v for k, v in content.items()
    }
    fields["samplers"] = tuple(Sampler(**sampler) for sampler in content["samplers"])
    return Protocol(**fields, sha256=fingerprint(content))


def read(name: str | Path) -> Protocol:
    """The protocol of a benchmark name, or of a path to a TOML file of your own. Raises UnknownName or ValueError."""
    path = Path(name)
    if path.suffix != ".toml":
        folder = catalogue.data_folder("leaderboard") / "protocols"
        path = folder / f"{name}.toml"
        if not path.is_file():
            raise UnknownName(nearest("benchmark", str(name), catalogue.list_benchmarks()))
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as TOML: {error}") from None
    return parse(content, str(path))
