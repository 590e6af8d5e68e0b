"""What a protocol wants of a model, by name: the draws of its samplers, the flow, and the key of every metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fmbench.evaluation.acceleration import Acceleration
from fmbench.evaluation.options import Options
from fmbench.execution.foreign import foreign
from fmbench.execution.identity import code_identity
from fmbench.records.keys import draw_id, flow_id, metric_key
from fmbench.records.metric import BUILT_IN, CORE, METRICS
from fmbench.records.protocol import Protocol
from fmbench.records.result import Result, Row
from fmbench.records.sampler import UNSAMPLED, Sampler
from fmbench.records.versions import METHOD_VERSIONS, package_version
from fmbench.tasks.base import Task
from fmbench.zoo.extractors import resolve_extractor
from fmbench.zoo.model import Model


@dataclass(frozen=True)
class Wanted:
    """A list of cells: finished is a result that has them all.

    Attributes:
        draws: sampler by the name of its draw, in the protocol's order; one that draws nothing for real data.
        flow: name of the flow.
        keys: of the metrics of samples, in the protocol's order.
        flow_keys: of the metrics of the flow.
        batches: sizes at which every draw of a model is timed; empty for real data.
    """

    draws: Mapping[str, Sampler]
    flow: str
    keys: Mapping[str, str]
    flow_keys: Mapping[str, str]
    batches: tuple[int, ...]

    def lacks(self, found: Row) -> list[str]:
        """Names of metrics that a row has not, or has of another definition."""
        return [n for n, key in self.keys.items() if n not in found.metrics or found.metrics[n].key != key]

    def flow_lacks(self, found: Result | None) -> list[str]:
        """Names of metrics of the flow that a result has not, or has of another definition or flow."""
        held = found.flow if found is not None and found.flow_id == self.flow else {}
        return [n for n, key in self.flow_keys.items() if n not in held or held[n].key != key]

    def continued(self, found: Result | None, least: Sequence[str]) -> Wanted:
        """The same without the extended metrics that a result has none of; those of a file go on, and what is named in ``least`` stays."""
        tables = () if found is None else (*(row.metrics for row in found.rows), found.flow)
        there = {name for table in tables for name in table}

        def chosen(keys: Mapping[str, str]) -> dict[str, str]:
            return {n: k for n, k in keys.items() if METRICS[n].tier == CORE or n in there or n in least}

        return dataclasses.replace(self, keys=chosen(self.keys), flow_keys=chosen(self.flow_keys))

    def timed(self, found: Row) -> bool:
        """Whether a row was timed at the sizes wanted; see :func:`is_timed`."""
        return is_timed(found, self.batches)

    def finished(self, found: Result | None) -> bool:
        """Whether a result has everything that is wanted, and nothing else."""
        return (
            found is not None
            and [row.id for row in found.rows] == list(self.draws)
            and all(list(row.metrics) == list(self.keys) and not self.lacks(row) for row in found.rows)
            and all(self.timed(row) for row in found.rows)
            and list(found.flow) == list(self.flow_keys)
            and not self.flow_lacks(found)
        )


def is_timed(found: Row, batches: Sequence[int]) -> bool:
    """Whether a row was timed at batch sizes, as far as they fitted; one without samples needs no times."""
    if not batches or not found.samples:
        return True
    if found.latency is None:
        return False
    sizes = [one["batch"] for one in found.latency.get("batches") or ()]
    return sizes == list(batches[: len(sizes)])


def _extractor(name: str) -> list[str]:
    """Name of an extractor with what pins its weights."""
    named = resolve_extractor(name)
    return [named.name, named.pinned]


def _key(name: str, task: Task, flow: str) -> str:
    metric = METRICS[name]
    pinned: list[Any] = [task.name, task.version]
    if metric.scope == "samples" and task.extractor:
        pinned.append(_extractor(task.extractor))
    if name not in BUILT_IN:
        with foreign(f"metric {name}"):
            measure = metric.resolve()
        pinned += [package_version(str(getattr(measure, "__module__", ""))), code_identity(measure)]
    if metric.first_seed:
        # Measured against where the reference solve ends.
        pinned.append(flow)
    return metric_key(name, metric.version, *pinned)


def wanted(spec: Protocol, task: Task, model: Model | None, options: Options) -> Wanted:
    """The cells of one model, or of real samples (``model`` None), on one task of a protocol."""
    identity = {} if model is None else model.identity
    pinned = [identity.get(key) for key in ("weights_sha256", "code_sha256", "recipe")]
    at = [task.name, task.version]
    seeds, n = options.seeds(spec), options.samples(spec)
    how = None if options.acceleration == Acceleration() or model is None else dataclasses.asdict(options.acceleration)
    samplers = spec.samplers if model is not None else (Sampler(UNSAMPLED, None),)
    flow = flow_id(at, pinned, seeds[0], options.flow(spec), n)
    keys = {name: _key(name, task, flow) for name in spec.metrics}
    return Wanted(
        draws={draw_id(at, pinned, sampler, seeds, n, how): sampler for sampler in samplers},
        flow=flow,
        keys={name: key for name, key in keys.items() if METRICS[name].scope == "samples"},
        flow_keys={name: key for name, key in keys.items() if METRICS[name].scope == "flow"},
        batches=tuple(spec.latency["batches"]) if model is not None else (),
    )


def adopted(found: Result, want: Wanted, spec: Protocol, model: Model | None, options: Options) -> Result | None:
    """A result of schema 1, which names nothing, with the names of what it surely is; None when that is not what is wanted.

    It must be of the same protocol, weights, seeds and samples, and of code of fmbench's own, all of which had version 1 then. A gap to a
    reference solve keeps no name when the flow was measured later than the samples: against which solve it was, nobody said.
    """
    identity = {} if model is None else model.identity
    ours = found.model["method"] in (*METHOD_VERSIONS, "data")
    same = (
        ours
        and found.benchmark["sha256"] == spec.sha256
        and all(found.model.get(key) == identity.get(key) for key in ("weights_sha256", "recipe"))
        and found.seeds == options.seeds(spec)
        and found.samples_per_seed == options.samples(spec)
        and found.environment.get("acceleration", dataclasses.asdict(Acceleration())) == dataclasses.asdict(options.acceleration)
    )  # fmt: skip
    by_label = {sampler.label: name for name, sampler in want.draws.items()}
    if not same or [row.sampler.label for row in found.rows] != list(by_label):
        return None
    later = "flow" in found.environment

    def named(row: Row) -> Row:
        metrics = {
            name: dataclasses.replace(e, key=want.keys[name])
            if name in want.keys and not (later and METRICS[name].first_seed and e.value is not None)
            else e
            for name, e in row.metrics.items()
        }
        return dataclasses.replace(row, id=by_label[row.sampler.label], metrics=metrics)

    flow = {name: dataclasses.replace(e, key=want.flow_keys.get(name, "")) for name, e in found.flow.items()}
    code = {key: identity[key] for key in ("code_sha256",) if key in identity}
    model_facts = {**found.model, **code}
    return dataclasses.replace(
        found, rows=tuple(map(named, found.rows)), flow=flow, flow_id=want.flow, model=model_facts
    )
