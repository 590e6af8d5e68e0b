"""A benchmark over models: plan, evaluate what is missing, save. One model that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fmbench.evaluation.ahead import Job, fill
from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.evaluation import Report, quiet
from fmbench.evaluation.identity import can_be_told, identified
from fmbench.evaluation.one import evaluate_one, is_for_others, require_own_name, result_path
from fmbench.evaluation.options import Options
from fmbench.evaluation.plan import Planned, plan
from fmbench.evaluation.produce import Helpers
from fmbench.evaluation.timing import Book, Wish, wishes
from fmbench.evaluation.wanted import is_timed
from fmbench.execution.executor import Executor
from fmbench.execution.foreign import foreign, isolated, said
from fmbench.execution.local import executor
from fmbench.records import protocol
from fmbench.records.protocol import Protocol
from fmbench.records.result import Result
from fmbench.storage.files import check_writable, remove_abandoned, write_atomic
from fmbench.zoo.model import Model
from fmbench.zoo.resolve import Resolved, resolve

MOST_NUMBERS = 100_000_000
"""Largest total number of parameters of the models that a run holds in memory."""
MOSTLY = 0.8
"""Share of an evaluation that counts as done when only its latencies are missing, for progress bars."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: results, and one line for each model that could not be evaluated at all."""

    results: list[Result]
    errors: list[str]


class _Models:
    """Loads the models of a plan; small ones stay in memory up to a total size, because they are used several times."""

    def __init__(self, device: str, trust_remote_code: bool = False) -> None:
        self.device, self.trusting, self.numbers = device, trust_remote_code, 0
        self.kept: dict[tuple[str, str], Model] = {}

    def load(self, one: Planned) -> Model | None:
        """The model of an evaluation, None for real samples. Raises ForeignError for whatever its code raises."""
        if one.model is None:
            return None
        key = one.model.spec, one.task.name
        if key in self.kept:
            return self.kept[key]
        with foreign(), isolated():
            model = one.model.load(self.device, self.trusting)
        if self.numbers + model.parameters <= MOST_NUMBERS:
            self.kept[key] = model
            self.numbers += model.parameters
        return model


def _for_others(spec: Protocol, planned: Sequence[Planned], options: Options, out: Path, models: _Models) -> list[int]:
    """Plan indices of the evaluations that other processes can work on. Models that cannot be loaded are reported later."""
    found = []
    for index, one in enumerate(planned):
        try:
            if is_for_others(spec, one.task, models.load(one), options, out):
                found.append(index)
        except (ValueError, FileNotFoundError):
            continue
    return found


@dataclass(frozen=True)
class _Shared:
    """The distribution of a plan's evaluations over processes.

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
        """Whether other processes get units of samples, because there are too few evaluations."""
        return self.workers > max(1, self.models)


def _share_out(spec: Protocol, planned: Sequence[Planned], options: Options, out: Path, models: _Models) -> _Shared:
    """The distribution of evaluations over processes. Stored results are read only when there may be several processes."""
    if options.processes(models.device, sum(one.model is not None for one in planned)) == 1:
        return _Shared()
    missing = _for_others(spec, planned, options, out, models)
    number = sum(planned[index].model is not None for index in missing)
    return _Shared(missing, number, options.processes(models.device, number) if number else 1)


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
    them and units of samples otherwise. The numbers are the same. Latencies come last, when nothing else loads the machine, all of them in
    turns. ``finished`` gets how many evaluations are done; those that only lack their times count in part.

    Raises ValueError or UnknownName for a bad request or a damaged ``latency.json``, PermissionError when ``out`` cannot be written, before
    any work; OSError when a result cannot be saved.
    """
    spec = protocol.read(benchmark)
    options = options or Options()
    options.check(spec)
    loaded, planned = (
        _Models(resolve_device(options.device), options.trust_remote_code),
        plan(spec, models, options.trainings),
    )
    check_writable(out)
    # Read before any work: a damaged file of latencies must not be found out after hours.
    book = Book(out)
    remove_abandoned(out)
    if Path(benchmark).suffix == ".toml":
        # The tables need the ranking rule of a protocol that is not bundled.
        write_atomic(result_path(out / "protocols", f"{spec.name}.toml"), Path(benchmark).read_text())
        benchmark = Path(benchmark).resolve()
    shared = _share_out(spec, planned, options, out, loaded)
    with executor(shared.workers) as pool:
        told: dict[int, str | None] = {}
        if shared.whole:
            where, how = (str(benchmark), spec.sha256), (str(out.resolve()), asdict(options))
            chosen = [planned[index] for index in shared.missing]
            orders = [Job(*where, one.model and one.model.spec, one.task.name, *how).plain() for one in chosen]
            done = pool.map(fill, orders, report, lambda count: finished(MOSTLY * count))
            told = {index: one.error for index, one in zip(shared.missing, done, strict=True)}
        carried = _Carried(spec, planned, out, options, loaded, report, finished)
        carried.measure(told, pool if shared.parts else None)
    return carried.timed(book)


class _Carried:
    """The evaluations of a plan, carried out one after the other: first everything but the times, then the times."""

    def __init__(
        self,
        spec: Protocol,
        planned: Sequence[Planned],
        out: Path,
        options: Options,
        models: _Models,
        report: Report,
        finished: Callable[[float], None],
    ) -> None:
        self.spec, self.planned, self.out, self.options, self.models = spec, planned, out, options, models
        self.report, self.finished = report, finished
        self.results: dict[int, Result] = {}
        self.errors: dict[int, str] = {}
        self.whole: set[int] = set()

    def _evaluate(self, index: int, options: Options, timed: bool, **how: Any) -> None:
        """Carry out one evaluation; a failure becomes one line, and the others go on.

        A model without a code hash, whose result cannot be found again, is timed at once.
        """
        one = self.planned[index]
        if index in self.whole:
            return
        try:
            model = self.models.load(one)
            if model is not None and not can_be_told(identified(model)):
                self.whole.add(index)
            timed = timed or index in self.whole
            done = evaluate_one(self.spec, one.task, model, options, self.out, self.report, timed=timed, **how)
            self.results[index] = done
        except (ValueError, FileNotFoundError) as error:
            self.errors[index] = f"{one.name}: {said(error)}"

    def measure(self, told: Mapping[int, str | None], helping: Executor | None) -> None:
        """Measure everything but latencies, and these too where a result cannot be found again; ``helping`` samples the units.

        ``told`` maps the plan index of evaluations done by other processes to the reason of failure, if any.
        """
        for index, one in enumerate(self.planned):
            if (failed := told.get(index)) is not None:
                self.errors[index] = f"{one.name}: {failed}"
                continue
            shared = helping is not None and one.model is not None and not one.model.runs_remote_code
            helpers = Helpers(helping, one.name) if helping is not None and shared else None
            now = replace(self.options, overwrite=False) if index in told else self.options
            self._evaluate(index, now, timed=False, helpers=helpers)
            self.finished(MOSTLY * max(index + 1, len(told)))

    def _wishes(self) -> list[Wish]:
        """The missing latencies."""
        found: list[Wish] = []
        batches, how = self.spec.latency["batches"], self.options.acceleration
        for index, done in self.results.items():
            lacking = [row.sampler for row in done.rows if not is_timed(row, batches)]
            if not lacking or self.planned[index].model is None:
                continue
            try:
                model = self.models.load(self.planned[index])
                assert model is not None
                found += wishes(identified(model), lacking, batches, self.models.device, how)
            except (ValueError, FileNotFoundError) as error:
                self.errors[index] = f"{self.planned[index].name}: {said(error)}"
        return found

    def timed(self, book: Book) -> Outcome:
        """Measure the latencies that are missing and not in the book, all in turns, and return the outcome of the run."""
        lacking = self._wishes()
        self.report(f"{self.spec.name}, latencies", 0, 1)
        book.fill(lacking, self.spec.latency, self.models.device, self.options.acceleration)
        for index in range(len(self.planned)):
            if index not in self.errors:
                self._evaluate(index, replace(self.options, overwrite=False), timed=True, book=book)
            self.finished(MOSTLY * len(self.planned) + (1 - MOSTLY) * (index + 1))
        kept = [result for index, result in self.results.items() if index not in self.errors]
        return Outcome(kept, [self.errors[index] for index in sorted(self.errors)])


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
    extended: bool = False,
    overwrite: bool = False,
    workers: int | str = "auto",
    trust_remote_code: bool = False,
    trainings: int | None = None,
) -> list[Result]:
    """Evaluate a loaded model, or the entry a string names, on a benchmark: a Result of real data, then one of each training.

    A loaded model is one training; of an entry as many are evaluated as ``trainings`` says, or the benchmark. With ``out`` the run is
    resumable and its results are saved. The other keywords are the options of ``fmbench run``, which
    :class:`~fmbench.evaluation.options.Options` defines for both; several ``workers`` sample the model of a string, while a loaded one stays
    in this process. A model that is not on ``device`` is moved there and comes back.

    Raises ValueError in one line when the benchmark has no task of the model, for options out of range, and for a model that fails its trial.
    """
    spec = protocol.read(benchmark)
    drawn = (device, batch_size, limit, seed_set, dtype, compile, channels_last)
    options = Options(*drawn, extended, overwrite, workers, trust_remote_code, trainings)
    options.check(spec)
    place, folder = resolve_device(device), None if out is None else Path(out)
    chosen = resolve(model).trainings(trainings or spec.trainings) if isinstance(model, str) else [model]
    results: list[Result] = []
    for one in chosen:
        named = one.spec if isinstance(one, Resolved) and not one.runs_remote_code else None
        if isinstance(one, Resolved):
            with foreign(), isolated():
                one = one.load(place, trust_remote_code)
        if one.task.name not in spec.tasks:
            raise ValueError(f"{one.name} is for task {one.task.name}, and {spec.name} has {', '.join(spec.tasks)}")
        require_own_name(one)
        with executor(options.processes(place, 1) if named else 1) as pool:
            helpers = Helpers(pool, named) if named and pool.workers > 1 else None
            results = results or [evaluate_one(spec, one.task, None, options, folder)]
            results.append(evaluate_one(spec, one.task, one, options, folder, book=Book(folder), helpers=helpers))
    return results
