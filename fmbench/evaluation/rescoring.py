"""Score samples that exist already, against a task or against another set: for models that fmbench cannot load. Status: rescored."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fmbench.evaluation import environment
from fmbench.evaluation.cost.memory import process_peak
from fmbench.evaluation.dialects import Dialect, fid_dialects
from fmbench.evaluation.scoring import Scorer
from fmbench.noise import generator
from fmbench.records import protocol
from fmbench.records.metric import METRICS
from fmbench.records.result import Result, Row
from fmbench.registry import TASKS, UnknownName, nearest
from fmbench.shapes import Labels, Points
from fmbench.storage.files import fingerprint, sha256
from fmbench.storage.samples import read_samples
from fmbench.tasks.base import StandardNormal, Task
from fmbench.zoo.extractors import load_extractor

LEAST = 2
ANCHORS = {"data": "the row of real samples", "oracle": "the row of the exact velocity"}
SHUFFLE = 0x5C0E
"""Key of the order samples are scored in."""


@dataclass(frozen=True)
class PointSet:
    """A finite set of points without classes."""

    values: Points

    def sample(self, n: int, generator: torch.Generator) -> Points:
        """``n`` of the points, with replacement."""
        return self.values[torch.randint(len(self.values), (n,), generator=generator)]

    def points(self) -> tuple[Points, Labels]:
        """All of them."""
        return self.values, torch.zeros(len(self.values), dtype=torch.int64)


def _against(reference: Points, digest: str, extractor: str | None) -> Task:
    """A task whose only content is a reference set."""
    points = PointSet(reference)
    shape = tuple(reference.shape[1:])
    kind = "image" if len(shape) == 3 else "vector"
    return Task(
        name=f"samples-{digest[:12]}",
        version=1,
        summary="a set of samples",
        kind=kind,
        shape=shape,
        source=StandardNormal(shape),
        target=points,
        heldout=points,
        extractor=extractor,
    )


def _metrics(
    metrics: Sequence[str] | None, benchmark: str | Path | None, task: Task
) -> tuple[list[str], dict[str, Any]]:
    """Names of the metrics that apply, and what the result says about the protocol."""
    if metrics and benchmark:
        raise ValueError("give metrics or a benchmark, not both")
    if benchmark is not None:
        spec = protocol.read(benchmark)
        if task.name not in spec.tasks:
            raise ValueError(f"{spec.name} has no task {task.name}; it has {', '.join(spec.tasks)}")
        chosen, identity = spec.metrics, {"name": spec.name, "version": spec.version, "sha256": spec.sha256}
    else:
        chosen = tuple(metrics or (name for name in METRICS if METRICS[name].default))
        identity = {"name": "score", "version": 1, "sha256": fingerprint(list(chosen))}
    for name in chosen:
        if name not in METRICS:
            raise UnknownName(nearest("metric", name, METRICS))
    names = [n for n in chosen if METRICS[n].scope == "samples" and not METRICS[n].first_seed]
    if metrics and (flow := [n for n in metrics if n not in names]):
        raise ValueError(
            f"{', '.join(flow)} cannot be measured on samples alone; evaluate the model with `fmbench run`"
        )
    return [n for n in names if metrics or task.kind in METRICS[n].kinds], identity


def _problem(
    samples: str | Path,
    task: str | None,
    reference: str | Path | None,
    key: str | None,
    value_range: str | None,
    extractor: str | None,
    reference_key: str | None,
) -> tuple[Points, dict[str, Any], Task]:
    """The samples, facts about them, and what they are compared with.

    Files may be sorted, by class say, and groups of a jackknife and first rows of large sets are taken as random: both sets are shuffled,
    always in the same way.
    """
    if (task is None) == (reference is None):
        raise ValueError("give what to compare with: --task NAME or --reference FILE, one of them")
    if reference is None:
        definition = TASKS.resolve(task or "")()
    else:
        real, _ = read_samples(reference, None, reference_key, value_range)
        definition = _against(_shuffled(real), sha256(real.numpy()), extractor)
    points, facts = read_samples(samples, definition.shape, key, value_range)
    return _shuffled(points), {"n": len(points), "sha256": sha256(points.contiguous().numpy()), **facts}, definition


def _called(name: str) -> str:
    """The name of the samples, which is that of their file. Raises ValueError for an anchor's, or one that is no file name."""
    if name in ANCHORS:
        raise ValueError(f"{name!r} is what tables call {ANCHORS[name]}; give the samples another --name")
    if not re.fullmatch(r"[\w+=][\w+=., -]*", name):
        raise ValueError(f"{name!r} cannot name samples: give a --name of letters, digits and . , _ - + =")
    return name


def _shuffled(points: Points) -> Points:
    return points[torch.randperm(len(points), generator=generator(SHUFFLE))]


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
    report: Callable[[str], None] | None = None,
) -> list[Dialect]:
    """The FID of the same images as each library would compute it, see :func:`~fmbench.evaluation.dialects.fid_dialects`.

    ``network`` names an Inception extractor; ``limit`` takes so many images of each side only. Raises ValueError for vectors, and what
    :func:`score` raises.
    """
    if not network.startswith("inception"):
        raise ValueError(
            f"{network} is no Inception; FID dialects take inception-tf, or inception-random without a download"
        )
    points, _, definition = _problem(samples, task, reference, key, value_range, None, reference_key)
    if definition.kind != "image":
        raise ValueError(f"FID dialects are of images, and {definition.name} has vectors")
    real = definition.target.points()[0]  # type: ignore[attr-defined]
    return fid_dialects(points[:limit], real[:limit], load_extractor(network), report=report)


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
) -> list[Result]:
    """Score a file of samples: results of the ``data`` anchor (real samples, tasks only) and of the samples, never ranked.

    Args:
        samples: see :func:`~fmbench.storage.samples.read_samples`.
        task, reference: what to compare with, exactly one: a registered task, or another file of samples.
        metrics, benchmark: metrics by name, or those of a benchmark; :data:`DEFAULT` otherwise.
        extractor: feature extractor for images, the task's own by default.
        key, value_range: see :func:`~fmbench.storage.samples.read_samples`; the range holds for the reference too.
        reference_key: which array of the reference's file.
        name: what to call the samples, their file's name by default.

    Raises ValueError, UnknownName or FileNotFoundError in one line.
    """
    began = time.monotonic()
    called = _called(name or Path(samples).stem)
    points, facts, definition = _problem(samples, task, reference, key, value_range, extractor, reference_key)
    names, identity = _metrics(metrics, benchmark, definition)
    if len(points) < LEAST:
        raise ValueError(
            f"{samples} holds {len(points)} sample; at least {LEAST} are needed, thousands for a score that means something"
        )
    chosen = extractor or definition.extractor
    scorer = Scorer(definition, names, (0,), len(points), load_extractor(chosen) if chosen else None)
    rows = {}
    if reference is None:
        real = scorer.real(0, "data")
        rows[f"{definition.name}/data"] = (
            real,
            Row("none", None, 1.0, {}, scorer.score([scorer.context(real, 0, real=True)])),
        )
    label = f"{definition.name}/{called}"
    rows[label] = (points, Row("none", None, 1.0, {}, scorer.score([scorer.context(points, 0)])))
    results = []
    for entry, (x, row) in rows.items():
        digest = facts if entry == label else {"n": len(x), "sha256": sha256(x.contiguous().numpy())}
        anchor = entry != label
        model = {"name": entry, "method": "data" if anchor else "samples", "division": "anchor" if anchor else "open"}
        results.append(
            Result(
                benchmark=identity,
                task={"name": definition.name, "version": definition.version, "kind": definition.kind},
                model={**model, "weights_sha256": None},
                rows=(Row(row.solver, row.steps, row.guidance, row.nfe, row.metrics, None, digest),),
                flow={},
                ranked=False,
                seeds=(0,),
                samples_per_seed=len(x),
                environment=environment.describe(torch.device("cpu")),
                status="rescored",
                peak_memory_bytes=process_peak(),
                seconds=round(time.monotonic() - began, 3),
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
        )
    return results
