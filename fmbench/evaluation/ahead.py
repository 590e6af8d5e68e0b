"""Whole evaluations carried out by other processes: all of them but the times, for which the machine must be idle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.one import evaluate_one
from fmbench.evaluation.options import Options
from fmbench.execution.executor import Report, nothing
from fmbench.execution.foreign import foreign, isolated
from fmbench.records import protocol
from fmbench.registry import TASKS
from fmbench.zoo.resolve import load


@dataclass(frozen=True)
class Job:
    """One model, or real samples (``model`` None), on one task of a benchmark; plain data.

    Attributes:
        benchmark, sha256: name or file of the protocol, and its hash.
        model: the string that names the model.
        task: name of the task.
        out: folder of the results.
        options: fields of :class:`~fmbench.evaluation.options.Options`.
    """

    benchmark: str
    sha256: str
    model: str | None
    task: str
    out: str
    options: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """The job as JSON can say it."""
        return asdict(self)


def fill(plain: Mapping[str, Any], report: Report = nothing) -> None:
    """Carry out a job, given by its fields: measure and save what is missing of its result, times excepted.

    Raises ValueError in one line for a protocol that was changed meanwhile, and what
    :func:`~fmbench.evaluation.one.evaluate_one` raises; OSError when the result cannot be saved.
    """
    job = Job(**plain)
    spec, options = protocol.read(job.benchmark), Options(**job.options)
    if spec.sha256 != job.sha256:
        raise ValueError(f"{job.benchmark} was changed during the run; run the same command again")
    task, model = TASKS.resolve(job.task)(), None
    if job.model is not None:
        with foreign(), isolated():
            place = resolve_device(options.device)
            model = load(job.model, task=job.task, device=place, trust_remote_code=options.trust_remote_code)
    evaluate_one(spec, task, model, options, Path(job.out), report, timed=False)
