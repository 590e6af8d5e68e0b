"""A result: one JSON file per (benchmark, task, entry), machine-written. Reading it needs no torch.

:mod:`fmbench.records.schema` defines the fields of a result, :mod:`fmbench.records.file` the format of its file; both are checked here
on writing and on reading. Raw values and witnesses are in a file beside it (:mod:`fmbench.records.sidecar`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbench.records import file, sidecar
from fmbench.records.sampler import Sampler
from fmbench.records.schema import LARGEST_FILE, SCHEMA, EstimateTable, ResultFile, check_value
from fmbench.records.sidecar import Part, Sidecar, Witness
from fmbench.records.typed import plain, require
from fmbench.storage.files import sha256, write_atomic
from fmbench.storage.readers import MEBIBYTE, read_json

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Estimate:
    """One metric's value with its uncertainty, or null with the reason.

    Attributes:
        value: the number, None when it could not be measured.
        ci: 95 % interval, None when there is none.
        n: number of samples (or trajectories) behind it.
        reason: why ``value`` is None.
        details: extractor and reference hashes, solver of a reference solve, and everything else that determines the value.
        key: what determines it beside the samples (:mod:`fmbench.records.keys`); empty where not recorded.
        run: name of the run it was measured in, a key of :attr:`Result.runs`; empty for the result's own.
        replicates: raw values behind the interval, for comparisons: the value of every evaluation seed where ``details`` has ``per_seed``;
            otherwise the values with group ``g`` of the rows left out, ``g = 0, 1, ...``, where row ``i`` is in group ``i mod 20``: the same
            rows for every metric and entry (fewer groups below 40 rows). Empty where not recorded. Stored in the sidecar of a result.
    """

    value: float | None
    ci: tuple[float, float] | None = None
    n: int = 0
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default="", compare=False)
    run: str = field(default="", compare=False)
    replicates: tuple[float, ...] = field(default=(), compare=False)

    @classmethod
    def missing(cls, reason: str) -> Estimate:
        """A metric that does not apply or failed, with the reason."""
        return cls(None, reason=reason)


@dataclass(frozen=True)
class Row:
    """The samples and metrics of one sampler of the protocol.

    Attributes:
        solver, steps, guidance: the sampler; ``steps`` is None for adaptive solvers.
        nfe: measured evaluations per sample, ``{"network": ..., "guidance": ...}``.
        metrics: estimates by metric name.
        latency: seconds ``p50``, ``p95``, ``p99`` per batch (None with too few repeats), ``throughput`` in samples/s, conditions; the same for
            every batch size in ``batches`` and the ``best`` of them; None when not timed.
        samples: ``n`` in all and the ``sha256`` of the float32 samples of all seeds in order.
        failed: one line when the samples were unusable (NaN, an exception), else None.
        id: name of the draw, a hash of all that determines the samples (:mod:`fmbench.records.keys`); empty where not recorded.
        run: name of the run it was drawn in; empty for the result's own.
        mflop: millions of floating-point operations per sample, inside and outside networks; None where not counted.
        witness: witness of the first samples of the first seed, from the sidecar; None where there is none.
    """

    solver: str
    steps: int | None
    guidance: float
    nfe: Mapping[str, float]
    metrics: Mapping[str, Estimate]
    latency: Mapping[str, Any] | None = None
    samples: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None
    id: str = field(default="", compare=False)
    run: str = field(default="", compare=False)
    mflop: float | None = None
    witness: Witness | None = field(default=None, compare=False)

    @property
    def sampler(self) -> Sampler:
        """The sampler of the row. Raises ValueError for steps or a guidance that no sampler has."""
        return Sampler(self.solver, self.steps, guidance=self.guidance)

    @property
    def total_nfe(self) -> float:
        """All network evaluations per sample."""
        return sum(self.nfe.values())


@dataclass(frozen=True)
class Result:
    """The result of one entry on one task of a benchmark.

    Attributes:
        benchmark: ``name``, ``version``, ``sha256`` of the protocol.
        task: ``name``, ``version``, ``kind``.
        model: ``name``, ``method``, ``division``, ``weights_sha256``, ``code_sha256``, ``parameters``, ``license``, ``conditional``.
        rows: one per sampler, in the protocol's order.
        flow: estimates on the shared reference solve (straightness, path energy, ...), independent of the sampler.
        ranked: whether the result may be ranked.
        seeds: evaluation seeds.
        samples_per_seed: samples per evaluation seed (the data anchor of a finite set has all its points once instead).
        environment: versions, device, threads, git commit.
        cost: parameters, FLOPs of one network evaluation, peak memory and energy of a batch; empty for real data.
        unranked_because: why ``ranked`` is False, one line for each reason; empty in files of versions that did not record it.
        flow_id: name of the reference solve; empty where not recorded.
        runs: later runs that filled in what was missing, by name: environment, time and duration.
        seconds: how long it took, in all.
        phases: seconds of trial, sampling, features, core, flow, latency, cost; empty in files of versions that did not record them.
        retired: numbers that another definition, other samples or other weights have replaced, by draw and metric.
        status: a rung of :data:`~fmbench.records.schema.STATUSES`.
        sidecar: hash of the file of raw values and witnesses beside the one it was read from; empty where there is none.
        without_sidecar: why that file could not be read, in one line that names it; empty when it was, or when there is none.
        flow_witness: of the velocity field; None where there is none.
        codes: hashes of earlier code whose witnesses were reproduced by the code of ``code_sha256``.
    """

    benchmark: Mapping[str, Any]
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    rows: tuple[Row, ...]
    flow: Mapping[str, Estimate]
    ranked: bool
    seeds: tuple[int, ...]
    samples_per_seed: int
    environment: Mapping[str, Any]
    status: str = "rerun"
    peak_memory_bytes: int | None = None
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA
    cost: Mapping[str, Any] = field(default_factory=dict)
    unranked_because: tuple[str, ...] = ()
    flow_id: str = field(default="", compare=False)
    runs: Mapping[str, Any] = field(default_factory=dict)
    retired: Mapping[str, Any] = field(default_factory=dict)
    sidecar: str = field(default="", compare=False)
    without_sidecar: str = field(default="", compare=False)
    flow_witness: Witness | None = field(default=None, compare=False)
    codes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def entry(self) -> str:
        """The last part of the model's name, which is the file's name."""
        return str(self.model["name"]).rpartition("/")[2]

    def to_frame(self) -> pd.DataFrame:
        """Its numbers as a data frame, one row each (:func:`fmbench.records.frames.frame`)."""
        from fmbench.records.frames import frame

        return frame([self])

    def __repr__(self) -> str:
        at = f"{self.benchmark.get('name')}/{self.model.get('name')}"
        return f"Result({at}, {len(self.rows)} samplers, {len(self.seeds)} x {self.samples_per_seed} samples, {self.status})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.to_frame()[['solver', 'steps', 'nfe', 'metric', 'value', 'low', 'high', 'n']].to_html()}"

    def to_json(self) -> dict[str, Any]:
        """Plain data, every number with all that describes it: schema 1, which is long. Files are shorter (:mod:`fmbench.records.file`).

        The content of the sidecar is not included.
        """
        content = dataclasses.asdict(self)
        for name in BESIDE:
            content.pop(name, None)
        for name in ("unranked_because", "phases", *SAID_WHERE_KNOWN):
            if name in content and not content[name]:
                # Files without them stay what they were before there were any.
                del content[name]
        for row in content["rows"]:
            if row["mflop"] is None:
                del row["mflop"]
        for table in (*content["rows"], *_estimates_in(content)):
            for name in BESIDE:
                table.pop(name, None)
            for name in SAID_WHERE_KNOWN:
                if not table.get(name, True):
                    del table[name]
        return content

    def save(self, folder: Path) -> Path:
        """Write ``folder/<benchmark>/<task>/<entry>.json`` atomically, its sidecar first where there is one, and return the path.

        After an interruption at any moment the path holds a complete result with its sidecar. Raises ValueError in one line, before anything
        is written, for a result that :func:`read` would refuse.
        """
        try:
            content = plain(self.to_json())
            require(content, ResultFile)
            folded = file.fold(content)
            beside = sidecar.text_of(_parts(self, folded), self.codes)
            if beside:
                folded["sidecar"] = sha256(beside.encode())
            text = file.text(folded)
            if len(text) > LARGEST_FILE:
                raise ValueError(
                    f"it takes {len(text) / MEBIBYTE:.1f} MiB, and at most {LARGEST_FILE / MEBIBYTE:g} are read"
                )
        except ValueError as error:
            raise ValueError(f"the result of {self.model.get('name')!r} cannot be written: {error}") from None
        path = folder / self.benchmark["name"] / self.task["name"] / f"{self.entry}.json"
        if beside:
            sidecar.write(path, beside)
        write_atomic(path, text)
        sidecar.tidy(path, folded.get("sidecar", ""))
        return path


SAID_WHERE_KNOWN = ("key", "run", "id", "flow_id", "runs", "retired")
BESIDE = ("replicates", "witness", "flow_witness", "codes", "sidecar", "without_sidecar")
"""Fields that are not in the long form: they are in the sidecar, or locate it."""


def _estimates_in(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for table in (*(row["metrics"] for row in content["rows"]), content["flow"]):
        yield from table.values()


def check_estimate(name: str, estimate: Estimate) -> None:
    """Raise ValueError in one line for an estimate that a result cannot hold; called on the return value of every metric."""
    table = plain(dataclasses.asdict(estimate))
    if raw := table.pop("replicates"):
        require({"groups": {name: raw}}, Part)
    check_value(name, require(table, EstimateTable))


def _estimates(table: Mapping[str, Any]) -> dict[str, Estimate]:
    return {
        name: Estimate(
            **{**v, "ci": tuple(v["ci"]) if v.get("ci") else None},
            replicates=tuple(v.get("details", {}).get("per_seed", ())),
        )
        for name, v in table.items()
    }


def _parts(found: Result, folded: Mapping[str, Any]) -> dict[str, Part]:
    """The sidecar content of a result, by the names of its cells in a file."""
    tables = [*((row.witness, row.metrics) for row in found.rows), (found.flow_witness, found.flow)]

    return {
        name: Part(witness, {n: e.replicates for n, e in table.items() if e.replicates and "per_seed" not in e.details})
        for name, (witness, table) in zip(folded["cells"], tables, strict=True)
    }


def _completed(found: Result, names: Sequence[str], beside: Sidecar) -> Result:
    """A result with its sidecar content; ``names`` are those of its rows and of its flow in the file."""

    def filled(table: Mapping[str, Estimate], part: Part) -> dict[str, Estimate]:
        raw = part.groups
        return {n: dataclasses.replace(e, replicates=raw[n]) if n in raw else e for n, e in table.items()}

    *parts, flow = (beside.parts.get(name, Part()) for name in names)
    rows = (
        dataclasses.replace(row, metrics=filled(row.metrics, part), witness=part.witness)
        for row, part in zip(found.rows, parts, strict=True)
    )
    return dataclasses.replace(
        found, rows=tuple(rows), flow=filled(found.flow, flow), flow_witness=flow.witness, codes=beside.codes
    )


def _with_sidecar(found: Result, content: Mapping[str, Any], path: Path, without: Collection[str] = ()) -> Result:
    """The result of a file with its sidecar, or with the reason why that cannot be read."""
    sha = content.get("sidecar")
    if sha is None:
        return found
    flow = [name for name in content["cells"] if name not in content["draws"]]
    names = [name for name in content["draws"] if name not in without]
    try:
        return dataclasses.replace(_completed(found, [*names, *flow], sidecar.read(path, sha)), sidecar=sha)
    except ValueError as error:
        return dataclasses.replace(
            found, sidecar=sha, without_sidecar=f"{error}; run the benchmark again with --overwrite"
        )


def _of_long_form(content: Any) -> Result:
    require(content, ResultFile)
    rows = tuple(Row(**{**row, "metrics": _estimates(row["metrics"])}) for row in content["rows"])
    fields = {"rows": rows, "flow": _estimates(content["flow"]), "seeds": tuple(content["seeds"])}
    reasons = tuple(content.get("unranked_because", ()))
    return Result(**{**content, **fields, "unranked_because": reasons})


def _is_file(content: Any) -> bool:
    """Whether plain data is of the schema of files; raises ValueError for one that this version does not read."""
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema not in (SCHEMA, file.SCHEMA):
        raise ValueError(f"schema {schema}, this version reads {SCHEMA} and {file.SCHEMA}")
    return schema == file.SCHEMA


def parse(content: Any) -> Result:
    """A result from plain data of schema 1 or 2.

    Raises ValueError in one line, the place first, for anything that :mod:`fmbench.records.schema` refuses, and for numbers of schema 2 that
    are not those of their seals.
    """
    return _of_long_form(file.unfold(content) if _is_file(content) else content)


def read(path: Path) -> Result:
    """Read one result, of schema 1 or 2, with its sidecar where it names one; one that cannot be read is only noted in ``without_sidecar``.

    Raises FileNotFoundError, or ValueError in one line that names the file and the place, for anything that :meth:`Result.save` would not
    have written.
    """
    content = read_json(path, "result", LARGEST_FILE)
    try:
        return _with_sidecar(parse(content), content, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_intact(path: Path) -> Result | None:
    """The result of :func:`read` without the draws and flows whose seals are broken; None when no draw is left.

    Raises FileNotFoundError and ValueError as :func:`read` does for everything else.
    """
    content = read_json(path, "result", LARGEST_FILE)
    try:
        if not _is_file(content):
            return parse(content)
        file.check(content)
        bad = file.broken(content)
        if set(content["draws"]) <= set(bad):
            return None
        return _with_sidecar(_of_long_form(file.unfold(content, bad)), content, path, bad)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
