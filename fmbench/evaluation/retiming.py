"""Measurement of latencies only, of the models of a benchmark in turns, written into the existing results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.identity import identified
from fmbench.evaluation.plan import Planned, plan
from fmbench.evaluation.timing import PLAIN, Book, Wish, wishes
from fmbench.execution.foreign import foreign, isolated, said
from fmbench.records import protocol, result
from fmbench.records.protocol import Protocol
from fmbench.records.result import Result, Row
from fmbench.records.sampler import Sampler
from fmbench.storage.files import check_writable
from fmbench.zoo.model import Model


@dataclass
class Timed:
    """One latency: the sampler, the entries that share it, and what was measured."""

    sampler: Sampler
    entries: list[str] = field(default_factory=list)
    latency: dict[str, Any] = field(default_factory=dict)


@dataclass
class Retiming:
    """Latencies of a benchmark, the result files that they were written into, and one line for everything that went wrong."""

    timed: list[Timed]
    written: list[Path]
    errors: list[str]


def fits(model: Model, spec: Protocol) -> list[Sampler]:
    """The samplers of a protocol that apply to a model."""
    return [sampler for sampler in spec.samplers if model.method.accepts(sampler) is None]


def _sound(latency: Mapping[str, Any] | None) -> bool:
    return bool(latency and latency.get("stable"))


def retimed(found: Result, latencies: Mapping[Sampler, dict[str, Any]]) -> Result:
    """The result with these latencies. Rows without samples stay as they are, and a void time never replaces a valid one."""

    def row(old: Row) -> Row:
        new = latencies.get(old.sampler)
        keep = new is None or not old.samples or (_sound(old.latency) and not _sound(new))
        return old if keep else dataclasses.replace(old, latency=new)

    return dataclasses.replace(found, rows=tuple(map(row, found.rows)))


def _write(folder: Path, spec: Protocol, model: Model, latencies: dict[Sampler, dict[str, Any]]) -> Path | None:
    """The file of a model's result with its latencies; None where there is no result of these weights, or an accelerated one.

    Raises ValueError for a damaged file.
    """
    entry = model.name.rpartition("/")[2]
    path = folder / spec.name / model.task.name / f"{entry}.json"
    if not path.is_file():
        return None
    found = result.read(path)
    plain = found.environment.get("acceleration") in (None, dataclasses.asdict(PLAIN))
    if not plain or found.model.get("weights_sha256") != model.identity.get("weights_sha256"):
        return None
    return retimed(found, latencies).save(folder)


def _wanted(planned: Sequence[Planned], spec: Protocol, device: str) -> tuple[list[Wish], list[str]]:
    """The latencies of all models with the samplers that they accept, and one line for each model that fails."""
    wanted: list[Wish] = []
    errors: list[str] = []
    for named in [one.model for one in planned if one.model is not None]:
        try:
            with foreign(), isolated():
                model = named.load(device)
            model = identified(model)
            wanted += wishes(model, fits(model, spec), spec.latency["batches"], device)
        except (ValueError, FileNotFoundError) as error:
            errors.append(f"{named.spec}: {said(error)}")
    return wanted, errors


def _shared(wanted: Sequence[Wish], found: Sequence[dict[str, Any]]) -> list[Timed]:
    """The latencies, each with all entries that share it."""
    timed: dict[str, Timed] = {}
    for index, (wish, latency) in enumerate(zip(wanted, found, strict=True)):
        one = timed.setdefault(wish.key or f"~{index}", Timed(wish.sampler, latency=latency))
        one.entries.append(wish.model.name)
    return list(timed.values())


def measure_latencies(
    benchmark: str | Path,
    models: Sequence[str] | None,
    out: Path,
    *,
    device: str = "auto",
    again: bool = False,
    report: Callable[[int], None] = lambda number: None,
) -> Retiming:
    """Measure the latency of every architecture and sampler of a benchmark in turns, and write it into the results below ``out``.

    Latencies of this machine in ``out/latency.json`` are measured ``again`` only on request. Raises what
    :func:`~fmbench.evaluation.plan.plan` raises; a model that fails becomes one of the errors.
    """
    spec, place = protocol.read(benchmark), resolve_device(device)
    check_writable(out)
    book = Book(out)
    wanted, errors = _wanted(plan(spec, models), spec, place)
    found = book.fill(wanted, spec.latency, place, again=again, report=report)
    by_model: dict[int, tuple[Model, dict[Sampler, dict[str, Any]]]] = {}
    for wish, latency in zip(wanted, found, strict=True):
        by_model.setdefault(id(wish.model), (wish.model, {}))[1][wish.sampler] = latency
        if "failed" in latency:
            errors.append(f"{wish.model.name}, {wish.sampler.label}: {latency['failed']}")
    written = []
    for model, latencies in by_model.values():
        try:
            path = _write(out / "results", spec, model, latencies)
            written += [path] if path is not None else []
        except ValueError as error:
            errors.append(str(error))
    return Retiming(_shared(wanted, found), written, errors)
