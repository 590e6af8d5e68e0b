"""Evaluation of one model on one task of a benchmark: a complete stored result is returned, an incomplete one is filled in and saved."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fmbench.evaluation.device import resolve_device
from fmbench.evaluation.evaluation import DATA, Clocked, Evaluation, Report, describe, quiet, unfit
from fmbench.evaluation.filling import Filling
from fmbench.evaluation.identity import can_be_told, identified
from fmbench.evaluation.options import Options
from fmbench.evaluation.produce import Helpers
from fmbench.evaluation.recognition import recognised
from fmbench.evaluation.timing import Book
from fmbench.evaluation.wanted import Wanted, adopted, wanted
from fmbench.execution.foreign import foreign
from fmbench.records import result
from fmbench.records.names import check_entry_name, check_name, check_training_name, split_training
from fmbench.records.protocol import Protocol
from fmbench.records.recipe import require_closed
from fmbench.records.result import Result
from fmbench.storage.files import fingerprint
from fmbench.tasks.base import Task
from fmbench.zoo.extractors import load_extractor
from fmbench.zoo.foreign import lent
from fmbench.zoo.model import Model
from fmbench.zoo.trial import trial


def _held(path: Path, spec: Protocol, model: Model | None, options: Options, want: Wanted) -> Result | None:
    """The stored result of an evaluation; None when there is none, or when it cannot be shown to belong to it.

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


def result_path(folder: Path, *names: str) -> Path:
    """The path of names below a folder, each checked again where a file is about to be written. Raises ValueError."""
    return folder.joinpath(*(check_training_name(name, "a file of results") for name in names))


def require_own_name(model: Model) -> str:
    """The last part of a model's name. Raises ValueError for a name that results cannot be stored under, such as that of an anchor."""
    entry = model.name.rpartition("/")[2]
    anchor = describe(model, model.name)["division"] == "anchor"
    if anchor and entry != DATA:
        return check_name(entry, "a model")
    replicate = model.recipe is not None and split_training(entry)[1]
    check_entry_name(split_training(entry)[0] if replicate else entry)
    return entry


@dataclass
class _Opened:
    """An evaluation, its wanted cells, its result file (None without one), and the content of that file."""

    run: Evaluation
    want: Wanted
    path: Path | None
    held: Result | None

    @property
    def finished(self) -> bool:
        """Whether nothing is missing."""
        return self.want.finished(self.held)

    @property
    def measured(self) -> bool:
        """Whether everything but latencies is there."""
        return replace(self.want, batches=()).finished(self.held)

    @property
    def drawn(self) -> set[str]:
        """Names of the draws in the stored result."""
        return set() if self.held is None else {row.id for row in self.held.rows}


def _opened(
    spec: Protocol, task: Task, model: Model | None, options: Options, out: Path | None, report: Report, timed: bool
) -> _Opened:
    """The evaluation with its stored result. Raises ValueError in one line for a model or file that does not fit it."""
    options.check(spec)
    entry = DATA
    if model is None:
        # Real samples pass no network.
        options = options.plain()
    else:
        entry = require_own_name(model)
        if model.recipe is not None:
            require_closed(model.recipe, task, model.name)
        model = identified(model)
    want = wanted(spec, task, model, options)
    if not timed:
        want = replace(want, batches=())
    run = Evaluation(spec, task, model, options, None, None, report)
    path = None if out is None else result_path(out / "results", spec.name, task.name, f"{entry}.json")
    held = None if path is None else _held(path, spec, model, options, want)
    if not options.extended:
        want = want.continued(held, list(map(str, spec.rank.values())))
    run.metrics = (*want.keys, *want.flow_keys)
    return _Opened(run, want, path, held)


def is_for_others(spec: Protocol, task: Task, model: Model | None, options: Options, out: Path) -> bool:
    """Whether another process can do part of an evaluation: more than latencies is missing, and the model has a code hash.

    Raises what :func:`evaluate_one` raises before any work.
    """
    opened = _opened(spec, task, model, options, out, quiet, timed=False)
    return can_be_told(opened.run.model) and not opened.measured


def evaluate_one(
    spec: Protocol,
    task: Task,
    model: Model | None,
    options: Options,
    out: Path | None,
    report: Report = quiet,
    *,
    timed: bool = True,
    book: Book | None = None,
    helpers: Helpers | None = None,
) -> Result:
    """Evaluate one model (or the ``data`` anchor) on one task; with ``out``, resumable and saved below ``out/results``.

    Args:
        spec, task, model, options, out: the model and task to evaluate, the settings, and the output folder.
        report: takes the progress.
        timed: whether the latency and, on a GPU, the costs are measured, which must not be while other processes load the machine; what is
            left out, the next evaluation that is timed fills in.
        book: latencies that are known, of this evaluation alone by default.
        helpers: other processes that sample the model ahead.

    The model is on the device of the options and in evaluation mode meanwhile, and as it was afterwards. Raises ValueError in one line,
    ForeignError where the model is to blame, for a model that fails its trial or cannot be evaluated at all.
    """
    opened = _opened(spec, task, model, options, out, report, timed)
    run, held = opened.run, opened.held
    run.book = book or run.book
    if held is not None and opened.finished:
        # The same numbers under another protocol, or read from a file of schema 1 or with a broken seal, are written again: that is cheap.
        done = replace(held, benchmark=run.benchmark())
        if done != held or (opened.path is not None and not _is_current(opened.path)):
            _save(done, out)
        return done
    with _stored(run, out, temporary=helpers is not None):
        done = _computed(opened, helpers)
        _save(done, out)
    return done


def _save(done: Result, out: Path | None) -> None:
    if out is not None:
        done.save(out / "results")


@contextmanager
def _stored(run: Evaluation, out: Path | None, temporary: bool) -> Iterator[None]:
    """Context in which the units of an evaluation are stored below ``out`` or in a ``temporary`` folder; deleted at the end unless it raises.

    Nothing is stored for a model without a code hash: its units could not be attributed to it later.
    """
    if run.model is None or not can_be_told(run.model) or not (out or temporary):
        yield
        return
    name = fingerprint([run.identity(), run.options.samples(run.spec), run.options.seeds(run.spec)])
    with ExitStack() as stack:
        above = Path(stack.enter_context(tempfile.TemporaryDirectory())) if out is None else out / ".units"
        run.units = result_path(above, name)
        if run.options.overwrite:
            shutil.rmtree(run.units, ignore_errors=True)
        yield
    shutil.rmtree(run.units, ignore_errors=True)


def _computed(opened: _Opened, helpers: Helpers | None) -> Result:
    """The complete result; the model is tried first where more than latencies is missing. Raises ForeignError for any failure."""
    run = opened.run
    device = resolve_device(run.options.device)
    with foreign(), ExitStack() as stack:
        if run.model is not None:
            stack.enter_context(lent(run.model.method, device))
        if run.model is not None and not opened.measured:
            with run.watch.phase("trial"):
                trial(run.model, run.spec.samplers)
        if run.task.extractor and not opened.measured:
            run.extractor = Clocked.of(load_extractor(run.task.extractor, device), run.watch)
        opened.held = recognised(run, opened.want, opened.held)
        if helpers is not None and run.units is not None:
            _sample_ahead(opened, helpers, run.units)
        return Filling(run, opened.want, opened.held).filled()


def _sample_ahead(opened: _Opened, helpers: Helpers, folder: Path) -> None:
    """Let helpers sample the units that the evaluation will need. Raises ForeignError when a process dies over one."""
    run = opened.run
    assert run.model is not None
    orders = [
        order
        for name, sampler in opened.want.draws.items()
        if name not in opened.drawn and unfit(run.model, sampler) is None
        for seed in run.options.seeds(run.spec)
        for order in run.orders(sampler, seed, helpers.model)
    ]
    with run.watch.phase("sampling"):
        helpers.fetch(orders, folder, lambda done: run.report(f"{run.name}, samples", done, len(orders)))
