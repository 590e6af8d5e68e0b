"""A benchmark over models: plan, evaluate what is missing, save. One model that fails does not stop the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fmbench.evaluation.acceleration import Acceleration
from fmbench.evaluation.evaluation import DATA, Evaluation, Options, Report, quiet
from fmbench.records import protocol, result
from fmbench.records.metric import METRICS
from fmbench.records.protocol import Protocol
from fmbench.records.recipe import require_closed
from fmbench.records.result import Result
from fmbench.registry import TASKS
from fmbench.storage.files import check_writable, fingerprint, write_atomic
from fmbench.tasks.base import Task
from fmbench.zoo.extractors import load_extractor
from fmbench.zoo.model import Model
from fmbench.zoo.resolve import load


def _rows_fit(found: Result, spec: Protocol) -> bool:
    """Whether a result of an earlier version has the rows of this one, or the one row of real samples."""
    samplers = [(row.solver, row.steps, row.guidance) for row in found.rows]
    names = {name for name in spec.metrics if METRICS[name].scope == "samples"}
    return all(set(row.metrics) == names for row in found.rows) and (
        found.model["method"] == DATA or samplers == [(s.solver, s.steps, s.guidance) for s in spec.samplers]
    )


def _finished(path: Path, spec: Protocol, model: Model | None, options: Options) -> Result | None:
    """A result already there for exactly this evaluation, or for one whose rows it keeps."""
    if options.overwrite or not path.is_file():
        return None
    found = result.read(path)
    accelerated = found.environment.get("acceleration", asdict(Acceleration()))
    expected = {"weights_sha256": None, "code_sha256": None, **(model.identity if model else {})}
    same = (
        (
            found.benchmark["sha256"] == spec.sha256
            or (found.benchmark["sha256"] in spec.keeps and _rows_fit(found, spec))
        )
        and all(found.model.get(key) == expected[key] for key in ("weights_sha256", "code_sha256"))
        and found.seeds == options.seeds(spec)
        and found.samples_per_seed == options.samples(spec)
        and found.ranked == options.ranked
        and accelerated == asdict(options.acceleration)
    )
    if not same and found.ranked and not options.ranked:
        raise ValueError(
            f"{path} is a ranked result, and this run (--limit, --seed-set or an acceleration) is not; "
            "give another --out, or --overwrite to replace it"
        )
    return found if same else None


def evaluate_one(
    spec: Protocol, task: Task, model: Model | None, options: Options, out: Path | None, report: Report = quiet
) -> Result:
    """Evaluate one model (or the ``data`` anchor) on one task; with ``out``, resumable and saved below ``out/results``."""
    if model is not None and model.recipe is not None:
        require_closed(model.recipe, task, model.name)
    extractor = load_extractor(task.extractor) if task.extractor else None
    if model is None:
        # Real samples pass no network.
        options = replace(options, acceleration=Acceleration())
    run = Evaluation(spec, task, model, options, None, extractor, report)
    if out is None:
        return run.run()
    path = out / "results" / spec.name / task.name / f"{run.name.rpartition('/')[2]}.json"
    found = _finished(path, spec, model, options)
    if found is not None:
        if found.benchmark["sha256"] != spec.sha256:
            found = run.measure_flow_again(found)
            found.save(out / "results")
        return found
    if model is not None:
        run.units = out / ".units" / fingerprint([run.identity(), options.samples(spec), options.seeds(spec)])
        if options.overwrite:
            shutil.rmtree(run.units, ignore_errors=True)
    done = run.run()
    done.save(out / "results")
    if run.units is not None:
        shutil.rmtree(run.units, ignore_errors=True)
    return done


def plan(
    spec: Protocol, models: Sequence[str] | None, device: str
) -> Iterator[tuple[Task, Callable[[], Model | None], str]]:
    """(task, loader, name) for every evaluation: per task the ``data`` anchor, then the models.

    ``models`` None means every bundled entry of the protocol's tasks. Raises ValueError for an empty list, a model of another task, or
    when nothing is bundled.
    """
    from fmbench.zoo.catalogue import find, list_entries, trained_here

    if models is not None and not models:
        raise ValueError("no models to run: the list is empty; leave -m out for every bundled entry")
    chosen: list[tuple[str, str | None]] = []
    for name in models if models is not None else [e for t in spec.tasks for e in list_entries(t)]:
        if ".py:" in name:
            trained = [task for task in spec.tasks if trained_here(name.rpartition(":")[2], task)]
            chosen += [(name, task) for task in trained or spec.tasks]
            continue
        task = find(name).recipe.task
        if task not in spec.tasks:
            raise ValueError(f"{name} is for task {task}, and {spec.name} has {', '.join(spec.tasks)}")
        chosen.append((name, task))
    if not chosen:
        raise ValueError(f"no entry is bundled for {', '.join(spec.tasks)}; name models of your own with -m")
    for task_name in spec.tasks:
        here = [name for name, task in chosen if task == task_name]
        if not here:
            continue
        task = TASKS.resolve(task_name)()
        yield task, lambda: None, f"{task_name}/{DATA}"
        for name in here:
            yield task, lambda name=name, t=task_name: load(name, task=t, device=device), name


@dataclass(frozen=True)
class Outcome:
    """What a run produced: results, and one line for each model that could not be evaluated at all."""

    results: list[Result]
    errors: list[str]


def run(
    benchmark: str | Path,
    models: Sequence[str] | None,
    out: Path,
    *,
    options: Options | None = None,
    device: str = "cpu",
    report: Report = quiet,
    finished: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Run a benchmark and save every result below ``out/results``; one model that cannot be loaded does not stop the others.

    Raises ValueError or UnknownName for a bad request, PermissionError when ``out`` cannot be written, before any work.
    """
    spec = protocol.read(benchmark)
    options = options or Options()
    check_writable(out)
    if Path(benchmark).suffix == ".toml":
        # The tables need the ranking rule of a protocol that is not bundled.
        write_atomic(out / "protocols" / f"{spec.name}.toml", Path(benchmark).read_text())
    results, errors = [], []
    for done, (task, loader, name) in enumerate(list(plan(spec, models, device)), start=1):
        try:
            results.append(evaluate_one(spec, task, loader(), options, out, report))
        except (ValueError, FileNotFoundError) as error:
            errors.append(f"{name}: {error}")
        finished(done)
    return Outcome(results, errors)


def evaluate(
    model: Model | str,
    benchmark: str | Path,
    *,
    device: str = "cpu",
    batch_size: int = 1024,
    limit: int | None = None,
    out: str | Path | None = None,
) -> list[Result]:
    """Evaluate a loaded model, or the model a string names, on a benchmark; one Result per task it applies to.

    The anchor row of real data comes first for every task. With ``out`` the run is resumable and its results are saved.
    Raises ValueError when the benchmark has no task of the model.
    """
    spec = protocol.read(benchmark)
    options = Options(batch_size=batch_size, limit=limit)
    loaded = load(model, device=device) if isinstance(model, str) else model
    if loaded.task.name not in spec.tasks:
        raise ValueError(f"{loaded.name} is for task {loaded.task.name}, and {spec.name} has {', '.join(spec.tasks)}")
    folder = None if out is None else Path(out)
    return [evaluate_one(spec, loaded.task, m, options, folder) for m in (None, loaded)]
