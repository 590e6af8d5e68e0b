"""A benchmark over models: plan, evaluate what is missing, save. One model that fails does not stop the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.evaluation import DATA, Evaluation, Report, describe, quiet
from fmbench.evaluation.filling import Filling
from fmbench.evaluation.identity import can_be_told, identified
from fmbench.evaluation.options import Options
from fmbench.evaluation.plan import plan
from fmbench.evaluation.wanted import Wanted, adopted, wanted
from fmbench.execution.foreign import foreign, isolated, said
from fmbench.records import protocol, result
from fmbench.records.names import check_entry_name, check_name
from fmbench.records.protocol import Protocol
from fmbench.records.recipe import require_closed
from fmbench.records.result import Result
from fmbench.storage.files import check_writable, fingerprint, write_atomic
from fmbench.tasks.base import Task
from fmbench.zoo.extractors import load_extractor
from fmbench.zoo.foreign import lent
from fmbench.zoo.model import Model
from fmbench.zoo.resolve import Resolved, resolve
from fmbench.zoo.trial import trial


def _held(path: Path, spec: Protocol, model: Model | None, options: Options, want: Wanted) -> Result | None:
    """What is already there of an evaluation; None when nothing is, or cannot be told to be of it.

    Raises ValueError in one line for a file that is no result, and for one that is ranked where this evaluation is not and would replace it.
    """
    if options.overwrite or not can_be_told(model) or not path.is_file():
        return None
    found = result.read_intact(path)
    if found is None:
        return None
    known = found if any(row.id for row in found.rows) else adopted(found, want, spec, model, options)
    drawn = set() if known is None else {row.id for row in known.rows}
    if found.ranked and not options.ranked and set(want.draws) - drawn:
        raise ValueError(
            f"{path} is a ranked result, and this run (--limit, --seed-set or an acceleration) is not; "
            "give another --out, or --overwrite to replace it"
        )
    return known


def _is_current(path: Path) -> bool:
    """Whether a file has the newest schema and whole seals."""
    try:
        return any(row.id for row in result.read(path).rows)
    except ValueError:
        return False


def _inside(folder: Path, *names: str) -> Path:
    """The path of names below a folder, each checked again where a file is about to be written. Raises ValueError."""
    return folder.joinpath(*(check_name(name, "a file of results") for name in names))


def _require_own_name(model: Model) -> str:
    """The last part of a model's name, when results may be filed under it: no folder's, no anchor's. Raises ValueError."""
    entry = model.name.rpartition("/")[2]
    anchor = describe(model, model.name)["division"] == "anchor"
    return check_name(entry, "a model") if anchor and entry != DATA else check_entry_name(entry)


def evaluate_one(
    spec: Protocol, task: Task, model: Model | None, options: Options, out: Path | None, report: Report = quiet
) -> Result:
    """Evaluate one model (or the ``data`` anchor) on one task; with ``out``, resumable and saved below ``out/results``.

    The model is on the device of the options and in evaluation mode meanwhile, and as it was afterwards. Raises ValueError in one line,
    ForeignError where the model is to blame, for a model that fails its trial or cannot be evaluated at all.
    """
    options.check(spec)
    if model is None:
        # Real samples pass no network.
        return _evaluate(spec, task, None, options.plain(), out, report)
    _require_own_name(model)
    if model.recipe is not None:
        require_closed(model.recipe, task, model.name)
    return _evaluate(spec, task, identified(model), options, out, report)


def _computed(run: Evaluation, measure: Callable[[], Result]) -> Result:
    """What ``measure`` gives after the model has passed its trial. Raises ForeignError for whatever goes wrong."""
    device = resolve_device(run.options.device)
    with foreign(), ExitStack() as stack:
        if run.model is not None:
            stack.enter_context(lent(run.model.method, device))
            trial(run.model, run.spec.samplers)
        if run.task.extractor:
            run.extractor = load_extractor(run.task.extractor, device)
        return measure()


def _evaluate(
    spec: Protocol, task: Task, model: Model | None, options: Options, out: Path | None, report: Report
) -> Result:
    run = Evaluation(spec, task, model, options, None, None, report)
    want = wanted(spec, task, model, options)
    if out is None:
        return _computed(run, lambda: Filling(run, want, None).filled())
    entry = DATA if model is None else _require_own_name(model)
    path = _inside(out / "results", spec.name, task.name, f"{entry}.json")
    held = _held(path, spec, model, options, want)
    if held is not None and want.finished(held):
        # The same numbers under another protocol, or read from a file of schema 1 or with a broken seal, are written again: that is cheap.
        done = replace(held, benchmark=run.benchmark())
        if done != held or not _is_current(path):
            done.save(out / "results")
        return done
    if model is not None and can_be_told(model):
        run.units = _inside(out / ".units", fingerprint([run.identity(), options.samples(spec), options.seeds(spec)]))
        if options.overwrite:
            shutil.rmtree(run.units, ignore_errors=True)
    done = _computed(run, lambda: Filling(run, want, held).filled())
    done.save(out / "results")
    if run.units is not None:
        shutil.rmtree(run.units, ignore_errors=True)
    return done


@dataclass(frozen=True)
class Outcome:
    """What a run produced: results, and one line for each model that could not be evaluated at all."""

    results: list[Result]
    errors: list[str]


def run(
    benchmark: str | Path,
    models: Sequence[str | Resolved] | None,
    out: Path,
    *,
    options: Options | None = None,
    report: Report = quiet,
    finished: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Run a benchmark and save every result below ``out/results``; a model that fails, however it does, does not stop the others.

    Raises ValueError or UnknownName for a bad request, PermissionError when ``out`` cannot be written, before any work; OSError when a
    result cannot be saved.
    """
    spec = protocol.read(benchmark)
    options = options or Options()
    options.check(spec)
    device = resolve_device(options.device)
    planned = plan(spec, models)
    check_writable(out)
    if Path(benchmark).suffix == ".toml":
        # The tables need the ranking rule of a protocol that is not bundled.
        write_atomic(_inside(out / "protocols", f"{spec.name}.toml"), Path(benchmark).read_text())
    results, errors = [], []
    for done, one in enumerate(planned, start=1):
        try:
            with foreign(), isolated():
                model = None if one.model is None else one.model.load(device, options.trust_remote_code)
            results.append(evaluate_one(spec, one.task, model, options, out, report))
        except (ValueError, FileNotFoundError) as error:
            errors.append(f"{one.name}: {said(error)}")
        finished(done)
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
    trust_remote_code: bool = False,
) -> list[Result]:
    """Evaluate a loaded model, or the model a string names, on a benchmark; one Result per task it applies to.

    The anchor row of real data comes first for every task. With ``out`` the run is resumable and its results are saved. The other keywords
    are the options of ``fmbench run``, which :class:`~fmbench.evaluation.options.Options` defines for both. A model that is not on
    ``device`` is moved there and comes back.

    Raises ValueError in one line when the benchmark has no task of the model, for options out of range, and for a model that fails its trial.
    """
    spec = protocol.read(benchmark)
    options = Options(device, batch_size, limit, seed_set, dtype, compile, channels_last, overwrite, trust_remote_code)
    options.check(spec)
    place = resolve_device(device)
    if isinstance(model, str):
        named = resolve(model)
        with foreign(), isolated():
            model = named.load(place, trust_remote_code)
    if model.task.name not in spec.tasks:
        raise ValueError(f"{model.name} is for task {model.task.name}, and {spec.name} has {', '.join(spec.tasks)}")
    _require_own_name(model)
    folder = None if out is None else Path(out)
    return [evaluate_one(spec, model.task, m, options, folder) for m in (None, model)]
