"""Score samples that exist already, against a task or against another set: for models that fmbench cannot load. Status: rescored."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fmbench.evaluation import environment
from fmbench.evaluation.comparison import LEAST, Comparison, Files, read_comparison
from fmbench.evaluation.cost.memory import process_peak
from fmbench.evaluation.dialects import Dialect, fid_dialects
from fmbench.evaluation.libraries import available, library_fids
from fmbench.evaluation.references import check_width, stated
from fmbench.evaluation.scoring import Scorer
from fmbench.features.extractor import Extractor
from fmbench.records import protocol
from fmbench.records.metric import METRICS
from fmbench.records.names import check_entry_name
from fmbench.records.needs import SPACE, known, missing
from fmbench.records.result import Estimate, Result, Row
from fmbench.registry import UnknownName, nearest
from fmbench.shapes import Points
from fmbench.storage.files import fingerprint, sha256
from fmbench.tasks.base import Task
from fmbench.zoo.extractors import load_extractor

DATA = "data"
"""Name of the anchor of real samples."""

UNRANKED = ("scored from samples that exist already: nobody measured their evaluations",)


def _check_benchmark(
    benchmark: str | Path | None, metrics: Sequence[str] | None, reference: str | Path | None, extractor: str | None
) -> None:
    """Raise ValueError for an option that the given benchmark already determines."""
    if benchmark is None:
        return
    if metrics is not None:
        raise ValueError("give metrics or a benchmark, not both")
    if reference is not None:
        raise ValueError("a benchmark compares with its tasks: give --task, or --metric for a --reference")
    if extractor is not None:
        raise ValueError(f"a benchmark scores with the task's own extractor; leave --extractor {extractor} out")


def _metrics(
    metrics: Sequence[str] | None, benchmark: str | Path | None, task: Task
) -> tuple[list[str], dict[str, Any]]:
    """Names of the metrics that apply, and the protocol as recorded in the result."""
    if benchmark is not None:
        spec = protocol.read(benchmark)
        if task.name not in spec.tasks:
            raise ValueError(f"{spec.name} has no task {task.name}; it has {', '.join(spec.tasks)}")
        chosen, identity = spec.metrics, {"name": spec.name, "version": spec.version, "sha256": spec.sha256}
    else:
        chosen = tuple((name for name in METRICS if METRICS[name].default) if metrics is None else metrics)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"metrics must be named once each, and one at least, got: {', '.join(chosen) or 'none'}")
        identity = {"name": "score", "version": 1, "sha256": fingerprint(list(chosen))}
    for name in chosen:
        if name not in METRICS:
            raise UnknownName(nearest("metric", name, METRICS))
    names = [n for n in chosen if METRICS[n].scope == "samples" and not METRICS[n].first_seed]
    if metrics is not None and (flow := [n for n in metrics if n not in names]):
        raise ValueError(
            f"{', '.join(flow)} cannot be measured on samples alone; evaluate the model with `fmbench run`"
        )
    return [n for n in names if metrics is not None or _fits(n, task)], identity


def _fits(name: str, task: Task) -> bool:
    """Whether a metric is one of samples in the space of a task."""
    ours = (need for need in METRICS[name].needs if known(need).of == SPACE)
    return missing(ours, task.space.provides.__contains__) is None


def dialects(
    samples: str | Path,
    *,
    task: str | None = None,
    reference: str | Path | None = None,
    key: str | None = None,
    value_range: str | None = None,
    reference_key: str | None = None,
    network: str = "inception-tf",
    limit: int | None = None,
    device: str = "cpu",
    report: Callable[[str], None] | None = None,
) -> list[Dialect]:
    """The FID of the same images as each library would compute it, see :func:`~fmbench.evaluation.dialects.fid_dialects`.

    ``network`` names an Inception extractor, which runs on ``device``; ``limit`` takes so many images of each side only. Raises ValueError
    for vectors and for a reference of statistics, and what :func:`score` raises.
    """
    if not network.startswith("inception"):
        raise ValueError(
            f"{network} is no Inception; FID dialects take inception-tf, or inception-random without a download"
        )
    if limit is not None and limit < LEAST:
        raise ValueError(f"a FID needs at least {LEAST} images of each side, got a limit of {limit}")
    compared = read_comparison(Files(samples, task, reference, key, reference_key, value_range, network))
    if compared.statistics is not None:
        raise ValueError(f"FID dialects resize the reference's pictures themselves, and {reference} holds statistics")
    if "image" not in compared.task.space.provides:
        raise ValueError(f"FID dialects are of images, and {samples} holds vectors")
    real = compared.task.real(len(compared.points), 0)
    loaded = load_extractor(network, device)
    rows = fid_dialects(compared.points[:limit], real[:limit], loaded, report=report)
    return [*rows, *_by_libraries(compared.points[:limit], real[:limit], loaded, rows[0], report)]


def _by_libraries(
    images: Points, real: Points, network: Extractor, ours: Dialect, report: Callable[[str], None] | None
) -> Iterator[Dialect]:
    """The scores of the libraries that are installed, named by their versions."""
    for name in available():
        if report:
            report(f"{name}, the library itself")
    for convention, library, score in library_fids(
        images.clamp(-1, 1) if images.is_floating_point() else images, real, network
    ):
        mode = convention.name.removeprefix(library.partition(" ")[0]).strip()
        gap = score - ours.fid
        told = {**asdict(convention), "name": f"{library} {mode}".strip() + " (the library)"}
        yield Dialect(
            **told, n=ours.n, reference_n=ours.reference_n, fid=score, difference=gap,
            relative=gap / ours.fid if ours.fid else float("nan"),
        )  # fmt: skip


def _scored(
    compared: Comparison, names: Sequence[str], extractor: str | None, device: str, anchor: bool
) -> list[tuple[bool, Points, dict[str, Estimate]]]:
    """(whether it is the anchor, samples, estimates), the anchor of real samples first where there is one."""
    task, points = compared.task, compared.points
    loaded = load_extractor(extractor, device) if extractor else None
    scorer = Scorer(task, names, (0,), len(points), loaded, device=device)
    if compared.statistics is not None:
        assert loaded is not None
        check_width(points, loaded, compared.statistics)
        scorer.reference = stated(compared.statistics)
    rows = []
    if anchor:
        real = task.anchor(len(points), 0)
        rows.append((True, real, scorer.score([scorer.evidence(real, 0, real=True)])))
    rows.append((False, points, scorer.score([scorer.evidence(points, 0)])))
    return rows


def _described(task: Task, name: str, anchor: bool) -> dict[str, Any]:
    """The description of the samples' origin in a result."""
    return {
        "name": f"{task.name}/{name}",
        "method": DATA if anchor else "samples",
        "division": "anchor" if anchor else "open",
        "weights_sha256": None,
    }


def score(
    samples: str | Path,
    *,
    task: str | None = None,
    reference: str | Path | None = None,
    metrics: Sequence[str] | None = None,
    benchmark: str | Path | None = None,
    extractor: str | None = None,
    key: str | None = None,
    value_range: str | None = None,
    reference_key: str | None = None,
    name: str | None = None,
    device: str = "cpu",
) -> list[Result]:
    """Score a file of samples: results of the ``data`` anchor (real samples, tasks only) and of the samples, never ranked.

    Args:
        samples: see :func:`~fmbench.storage.samples.read_samples`.
        task, reference: what to compare with, exactly one: a registered task, or another file of samples, or a file of ``mu`` and ``sigma``,
            mean and covariance of the features that ``extractor`` gives of the reference: then only what needs no real samples is measured.
        metrics, benchmark: metrics by name, or those of a benchmark; otherwise those that are measured by default.
        extractor: feature extractor for images, the task's own by default.
        key, value_range: see :func:`~fmbench.storage.samples.read_samples`; the range holds for the reference too.
        reference_key: which array of the reference's file; ``mu`` takes the statistics of one that holds samples as well.
        name: what to call the samples, their file's name by default.
        device: where the extractor runs and pairs of samples are looked at.

    The array read from a file and the files left out of a folder are recorded in ``samples`` of the row, under ``reference`` for the reference.

    Raises ValueError, UnknownName or FileNotFoundError in one line.
    """
    began = time.monotonic()
    called = check_entry_name(Path(samples).stem if name is None else name, "samples (--name)")
    _check_benchmark(benchmark, metrics, reference, extractor)
    compared = read_comparison(Files(samples, task, reference, key, reference_key, value_range, extractor))
    definition = compared.task
    names, identity = _metrics(metrics, benchmark, definition)
    chosen = extractor or definition.extractor
    scored = _scored(compared, names, chosen, device, anchor=reference is None)
    environs, results = environment.describe(torch.device(device)), []
    for anchor, points, estimates in scored:
        facts = {"n": len(points), "sha256": sha256(points.contiguous().numpy())} if anchor else compared.facts
        results.append(
            Result(
                benchmark=identity,
                task={"name": definition.name, "version": definition.version, "kind": definition.kind},
                model=_described(definition, DATA if anchor else called, anchor),
                rows=(Row("none", None, 1.0, {}, estimates, None, facts),),
                flow={},
                ranked=False,
                unranked_because=UNRANKED,
                seeds=(0,),
                samples_per_seed=len(points),
                environment=environs,
                status="rescored",
                peak_memory_bytes=process_peak(),
                seconds=round(time.monotonic() - began, 3),
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
        )
    return results
