"""A benchmark over models: plan, evaluate what is missing, save. One model that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fmbench.evaluation.ahead import Job, fill
from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.evaluation import Report, quiet
from fmbench.evaluation.one import evaluate_one, is_for_others, require_own_name, result_path
from fmbench.evaluation.options import Options
from fmbench.evaluation.plan import Planned, plan
from fmbench.evaluation.produce import Helpers
from fmbench.evaluation.timing import Book
from fmbench.execution.executor import Executor
from fmbench.execution.foreign import foreign, isolated, said
from fmbench.execution.local import executor
from fmbench.records import protocol
from fmbench.records.protocol import Protocol
from fmbench.records.result import Result
from fmbench.storage.files import check_writable, write_atomic
from fmbench.zoo.model import Model
from fmbench.zoo.resolve import Resolved, resolve

MOSTLY = 0.8
"""Part of an evaluation that is done when only its times are missing, for progress bars."""


@dataclass(frozen=True)
class Outcome:
    """What a run produced: results, and one line for each model that could not be evaluated at all."""

    results: list[Result]
    errors: list[str]


def _load(one: Planned, options: Options) -> Model | None:
    """The model of an evaluation, None for real samples. Raises ForeignError for whatever its code raises."""
    with foreign(), isolated():
        if one.model is None:
            return None
        return one.model.load(resolve_device(options.device), options.trust_remote_code)


def _is_shareable(model: Model | None) -> bool:
    """Whether other processes may load the model by its name: code of the Hub that its user trusts here is trusted here only."""
    return model is not None and "remote_code" not in model.identity


def _for_others(spec: Protocol, planned: Sequence[Planned], options: Options, out: Path) -> list[int]:
    """Places in the plan of the evaluations that other processes can measure something of. What cannot be loaded is told later."""
    found = []
    for index, one in enumerate(planned):
        try:
            if is_for_others(spec, one.task, _load(one, options), options, out):
                found.append(index)
        except (ValueError, FileNotFoundError):
            continue
    return found


@dataclass(frozen=True)
class _Shared:
    """How the evaluations of a plan are shared out.

    Attributes:
        missing: places in the plan of those that other processes can measure something of.
        models: how many of them sample a model.
        workers: how many processes.
    """

    missing: Sequence[int] = ()
    models: int = 0
    workers: int = 1

    @property
    def whole(self) -> bool:
        """Whether other processes get whole evaluations."""
        return 1 < self.workers <= self.models

    @property
    def parts(self) -> bool:
        """Whether other processes get units of samples, for want of evaluations."""
        return self.workers > max(1, self.models)


def _share_out(spec: Protocol, planned: Sequence[Planned], options: Options, out: Path) -> _Shared:
    """Who does what. Looking at what is there comes only after it is known that there may be several processes."""
    device = resolve_device(options.device)
    if options.processes(device, sum(one.model is not None for one in planned)) == 1:
        return _Shared()
    missing = _for_others(spec, planned, options, out)
    models = sum(planned[index].model is not None for index in missing)
    return _Shared(missing, models, options.processes(device, models) if models else 1)


def run(
    benchmark: str | Path,
    models: Sequence[str | Resolved] | None,
    out: Path,
    *,
    options: Options | None = None,
    report: Report = quiet,
    finished: Callable[[float], None] = lambda done: None,
) -> Outcome:
    """Run a benchmark and save every result below ``out/results``; a model that fails, however it does, does not stop the others.

    With several ``workers``, other processes measure all that may be measured side by side, whole evaluations where there are enough of
    them and units of samples otherwise; this one then does what is left, the latencies above all. The numbers are the same. ``finished``
    gets how many evaluations are done; those that only lack their times count in part.

    Raises ValueError or UnknownName for a bad request, PermissionError when ``out`` cannot be written, before any work; OSError when a
    result cannot be saved.
    """
    spec = protocol.read(benchmark)
    options = options or Options()
    options.check(spec)
    resolve_device(options.device)
    planned = plan(spec, models)
    check_writable(out)
    if Path(benchmark).suffix == ".toml":
        # The tables need the ranking rule of a protocol that is not bundled.
        write_atomic(result_path(out / "protocols", f"{spec.name}.toml"), Path(benchmark).read_text())
        benchmark = Path(benchmark).resolve()
    shared = _share_out(spec, planned, options, out)
    with executor(shared.workers) as pool:
        told: dict[int, str | None] = {}
        if shared.whole:
            where, how = (str(benchmark), spec.sha256), (str(out.resolve()), asdict(options))
            chosen = [planned[index] for index in shared.missing]
            orders = [Job(*where, one.model and one.model.spec, one.task.name, *how).plain() for one in chosen]
            done = pool.map(fill, orders, report, lambda count: finished(MOSTLY * count))
            told = {index: one.error for index, one in zip(shared.missing, done, strict=True)}
        helping = pool if shared.parts else None
        return _carried_out(spec, planned, out, options, told, helping, report, finished)


def _carried_out(
    spec: Protocol,
    planned: Sequence[Planned],
    out: Path,
    options: Options,
    told: Mapping[int, str | None],
    helping: Executor | None,
    report: Report,
    finished: Callable[[float], None],
) -> Outcome:
    """Every evaluation of a plan, one after the other.

    ``told`` has those that other processes have measured but for their times, by place in the plan, with the reason of those that failed;
    ``helping`` samples units of the others.
    """
    results, errors, book = [], [], Book(out)
    for index, one in enumerate(planned):
        try:
            if (failed := told.get(index)) is not None:
                raise ValueError(failed)
            model = _load(one, options)
            now = replace(options, overwrite=False) if index in told else options
            helpers = Helpers(helping, one.name) if helping is not None and _is_shareable(model) else None
            results.append(evaluate_one(spec, one.task, model, now, out, report, book=book, helpers=helpers))
        except (ValueError, FileNotFoundError) as error:
            errors.append(f"{one.name}: {said(error)}")
        finished(index + 1 + MOSTLY * sum(later > index for later in told))
    return Outcome(results, errors)


def evaluate(
    model: Model | str,
    benchmark: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 1024,
    limit: int | None = None,
    seed_set: int = 0,
    dtype: str = "float32",
    compile: str = "none",
    channels_last: bool = False,
    overwrite: bool = False,
    workers: int | str = "auto",
    trust_remote_code: bool = False,
) -> list[Result]:
    """Evaluate a loaded model, or the model a string names, on a benchmark; one Result per task it applies to.

    The anchor row of real data comes first for every task. With ``out`` the run is resumable and its results are saved. The other keywords
    are the options of ``fmbench run``, which :class:`~fmbench.evaluation.options.Options` defines for both; several ``workers`` sample the
    model of a string, while a loaded one stays in this process. A model that is not on ``device`` is moved there and comes back.

    Raises ValueError in one line when the benchmark has no task of the model, for options out of range, and for a model that fails its trial.
    """
    spec = protocol.read(benchmark)
    how = (device, batch_size, limit, seed_set, dtype, compile, channels_last, overwrite, workers, trust_remote_code)
    options = Options(*how)
    options.check(spec)
    place, named = resolve_device(device), None
    if isinstance(model, str):
        found = resolve(model)
        with foreign(), isolated():
            model = found.load(place, trust_remote_code)
        named = found.spec if _is_shareable(model) else None
    if model.task.name not in spec.tasks:
        raise ValueError(f"{model.name} is for task {model.task.name}, and {spec.name} has {', '.join(spec.tasks)}")
    require_own_name(model)
    folder = None if out is None else Path(out)
    with executor(options.processes(place, 1) if named else 1) as pool:
        helpers = Helpers(pool, named) if named and pool.workers > 1 else None
        data = evaluate_one(spec, model.task, None, options, folder)
        return [data, evaluate_one(spec, model.task, model, options, folder, book=Book(folder), helpers=helpers)]
