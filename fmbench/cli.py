"""The command line: parse, call, print. Nothing here computes; heavy imports wait for the command that needs them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fmbench
from fmbench.registry import UnknownName, nearest

KINDS = ("entries", "methods", "tasks", "benchmarks", "metrics")
DONE, FAILED, USAGE = 0, 1, 2


class UsageError(ValueError):
    """The request itself is wrong: exit code 2."""


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def _setting(text: str) -> tuple[str, Any]:
    """``key=value`` with the value in TOML, or a bare word."""
    import tomllib

    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key, value


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def _device(name: str) -> str:
    """The device, checked; ``auto`` takes CUDA when there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (name.startswith("cuda") and torch.cuda.is_available()):
        available = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UsageError(f"device {name!r} is not available here; available: {available}")
    return name


# -- list, info ---------------------------------------------------------------------------------------------------------


def _listing(kind: str) -> dict[str, str]:
    """Names of a kind, each with one line where that costs no import."""
    if kind == "metrics":
        from fmbench.metrics.info import METRICS

        return {name: info.summary for name, info in METRICS.items()}
    return dict.fromkeys(getattr(fmbench, f"list_{kind}")(), "")


def cmd_list(args: argparse.Namespace) -> int:
    """Names, one a line."""
    kinds = KINDS if args.kind is None else (args.kind,)
    listing = {kind: _listing(kind) for kind in kinds}
    if args.json:
        _print_json({kind: list(names) for kind, names in listing.items()})
        return DONE
    for kind, names in listing.items():
        if args.kind is None:
            print(f"{kind} ({len(names)})")
        indent = "  " if args.kind is None else ""
        width = max(map(len, names), default=0)
        for name, summary in names.items():
            print(f"{indent}{name:<{width}}  {summary}".rstrip())
    return DONE


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _info(name: str) -> dict[str, Any]:
    """What there is to know about a name of any kind. Raises UnknownName."""
    import dataclasses

    from fmbench import catalogue, protocol, registry
    from fmbench.metrics.info import METRICS

    if name in METRICS:
        return {"kind": "metric", "name": name, **dataclasses.asdict(METRICS[name])}
    if name in catalogue.list_benchmarks():
        return {"kind": "benchmark", **dataclasses.asdict(protocol.read(name))}
    if name in registry.METHODS.all():
        kind = registry.METHODS.resolve(name)
        return {
            "kind": "method",
            "name": name,
            "summary": kind.summary,
            "reference": kind.reference,
            "text": _first_paragraph(kind.__doc__),
        }
    if name in registry.TASKS.all():
        make = registry.TASKS.resolve(name)
        task = make()
        facts = {
            k: getattr(task, k)
            for k in ("version", "summary", "kind", "shape", "net", "train", "num_classes", "w2_squared")
        }
        return {"kind": "task", "name": name, **facts, "text": _first_paragraph(make.__doc__)}
    try:
        entry = catalogue.find(name)
    except UnknownName:
        known = [
            *METRICS,
            *catalogue.list_benchmarks(),
            *registry.METHODS.all(),
            *registry.TASKS.all(),
            *catalogue.list_entries(),
        ]
        raise UnknownName(nearest("name", name, known)) from None
    return {"kind": "entry", "name": entry.name, "folder": str(entry.folder), **dataclasses.asdict(entry.recipe)}


def cmd_info(args: argparse.Namespace) -> int:
    """Facts about one name."""
    facts = _info(args.name)
    if args.json:
        _print_json(json.loads(json.dumps(facts, default=list)))
        return DONE
    width = max(map(len, facts))
    for key, value in facts.items():
        if value not in (None, "", {}):
            print(f"{key:<{width}}  {value}")
    return DONE


# -- sample -------------------------------------------------------------------------------------------------------------


def cmd_sample(args: argparse.Namespace) -> int:
    """Samples into a picture or an array file."""
    import io

    import numpy as np
    import torch

    from fmbench.files import write_atomic
    from fmbench.model import load
    from fmbench.pictures import picture

    suffix = args.output.suffix.lower()
    if suffix not in (".png", ".npy"):
        raise UsageError(f"output {args.output} must end in .png or .npy")
    model = load(args.entry, task=args.task, device=_device(args.device))
    labels = None
    if args.label is not None:
        if not model.conditional or not 0 <= args.label < model.task.num_classes:
            raise UsageError(
                f"--label {args.label}: {model.name} takes {f'0 to {model.task.num_classes - 1}' if model.conditional else 'no labels'}"
            )
        labels = torch.full((args.n,), args.label)
    x = model.sample(
        args.n, seed=args.seed, solver=args.solver, steps=args.steps, guidance=args.guidance, labels=labels
    )
    buffer = io.BytesIO()
    if suffix == ".png":
        picture(x).save(buffer, format="png")
    else:
        np.save(buffer, x.numpy(), allow_pickle=False)
    write_atomic(args.output, buffer.getvalue())
    if args.json:
        _print_json({"output": str(args.output), "shape": list(x.shape)})
    else:
        print(f"{args.output}: {tuple(x.shape)}")
    return DONE


# -- run ----------------------------------------------------------------------------------------------------------------


def _progress(enabled: bool) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not enabled, transient=True)


def cmd_run(args: argparse.Namespace) -> int:
    """Evaluate models on a benchmark and print the tables."""
    from fmbench import protocol
    from fmbench.evaluation import Options
    from fmbench.report.build import build_leaderboard
    from fmbench.report.terminal import print_results
    from fmbench.runner import plan, run

    device = _device(args.device)
    options = Options(args.batch_size, args.limit, args.seed_set, args.overwrite)
    spec = protocol.read(args.benchmark)
    total = len(list(plan(spec, args.model, device)))
    with _progress(not args.json) as progress:
        bar = progress.add_task(spec.name, total=total)

        def report(name: str, _done: int, _steps: int) -> None:
            progress.update(bar, description=name)

        def finished(done: int) -> None:
            progress.update(bar, completed=done)

        outcome = run(
            args.benchmark, args.model, args.out, options=options, device=device, report=report, finished=finished
        )
    for line in outcome.errors:
        print(f"fmbench: {line}", file=sys.stderr)
    written = build_leaderboard(args.out)
    if args.json:
        _print_json([r.to_json() for r in outcome.results])
    else:
        print_results(outcome.results)
        print("leaderboard: " + ", ".join(str(path) for path in written))
    failed = outcome.errors or [r for r in outcome.results if any(row.failed for row in r.rows)]
    return FAILED if failed else DONE


# -- train, check ---------------------------------------------------------------------------------------------------------


def _recipe(args: argparse.Namespace) -> tuple[Any, Path]:
    """The recipe to train and the folder to write."""
    from fmbench import catalogue, recipe
    from fmbench.registry import TASKS

    settings = dict(args.set or [])
    if args.teacher:
        settings["teacher"] = args.teacher
    if args.entry and (args.method or args.task):
        raise UsageError("give an entry folder, or --method and --task, not both")
    if args.entry:
        entry = catalogue.find(args.entry)
        chosen, out = entry.recipe, entry.folder
    elif args.method and args.task:
        name = args.method.rpartition(":")[2] if ".py:" in args.method else args.method
        chosen = recipe.closed(TASKS.resolve(args.task)(), args.method)
        out = catalogue.LOCAL_ENTRIES / args.task / catalogue.kebab(name)
    else:
        raise UsageError("give an entry folder (fmbench train zoo/digits/ot-cfm), or --method and --task")
    return (recipe.override(chosen, settings) if settings else chosen), args.out or out


def cmd_train(args: argparse.Namespace) -> int:
    """Train a recipe."""
    import torch

    from fmbench.training import train

    chosen, out = _recipe(args)
    device = _device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    with _progress(not args.json) as progress:
        bar = progress.add_task(f"{chosen.task}/{out.name}", total=chosen.train.steps)

        def report(step: int, loss: float) -> None:
            if step % 20 == 0:
                progress.update(bar, completed=step, description=f"{chosen.task}/{out.name} loss {loss:.4f}")

        train(chosen, out, device=device, max_steps=args.max_steps, report=report)
    finished = (out / "model.safetensors").is_file() and (
        args.max_steps is None or args.max_steps >= chosen.train.steps
    )
    if args.json:
        _print_json({"folder": str(out), "finished": finished})
    else:
        print(
            f"{out}: "
            + ("model.safetensors, recipe.toml, README.md" if finished else "checkpoint; run again to continue")
        )
    return DONE


def cmd_check(args: argparse.Namespace) -> int:
    """Run the conformance suite."""
    from fmbench.testing import check_method

    checks = check_method(args.method, args.task)
    if args.json:
        _print_json([{"check": c.name, "error": c.error} for c in checks])
    else:
        for check in checks:
            print(
                f"{'ok    ' if check.error is None else 'FAILED'}  {check.name}"
                + (f": {check.error}" if check.error else "")
            )
    return FAILED if any(c.error for c in checks) else DONE


# -- leaderboard, sysinfo -------------------------------------------------------------------------------------------------


def cmd_leaderboard(args: argparse.Namespace) -> int:
    """Build the tables and the page from the results of a folder."""
    from fmbench.report.build import build_leaderboard

    folder = args.folder or Path("leaderboard")
    if not (folder / "results").is_dir():
        raise UsageError(f"{folder} has no results folder; name the folder that `fmbench run --out` wrote")
    written = build_leaderboard(folder, args.readme)
    _print_json([str(path) for path in written]) if args.json else print("\n".join(str(path) for path in written))
    return DONE


def cmd_sysinfo(args: argparse.Namespace) -> int:
    """Versions and devices."""
    import torch

    from fmbench import environment

    facts = environment.describe(torch.device("cpu"))
    facts["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if args.json:
        _print_json(facts)
    else:
        for key, value in facts.items():
            print(f"{key:<12}{value}")
    return DONE


# -- parser ---------------------------------------------------------------------------------------------------------------


def _add_run(add: Callable[..., argparse.ArgumentParser]) -> None:
    p = add("run", cmd_run, "evaluate models on a benchmark")
    p.add_argument("benchmark", help="a benchmark name, or a protocol file of your own")
    p.add_argument(
        "-m",
        "--model",
        nargs="*",
        action="extend",
        help="task/entry, folder or file.py:Class; every bundled entry when left out",
    )
    p.add_argument("--out", type=Path, default=Path("runs"), help="folder for results and tables (default: runs)")
    p.add_argument("--batch-size", type=_positive, default=1024, help="samples per network call (default: 1024)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--limit", type=_positive, help="samples per seed; the result is marked and never ranked")
    p.add_argument(
        "--seed-set", type=int, default=0, help="k shifts the evaluation seeds by 1000 k; not ranked unless 0"
    )
    p.add_argument("--overwrite", action="store_true", help="evaluate again what is already there")


def _add_train(add: Callable[..., argparse.ArgumentParser]) -> None:
    p = add("train", cmd_train, "train a recipe into an entry folder")
    p.add_argument("entry", nargs="?", help="a folder with recipe.toml, or task/entry of the zoo")
    p.add_argument("--method", help="a method name or file.py:Class, with the closed recipe of --task")
    p.add_argument("--task")
    p.add_argument("--teacher", help="task/entry of the teacher for reflow and distillation")
    p.add_argument(
        "--set", action="append", type=_setting, metavar="KEY=VALUE", help="change a recipe key, e.g. train.steps=500"
    )
    p.add_argument("--out", type=Path, help="folder to write (default: the entry, or entries/TASK/METHOD)")
    p.add_argument("--device", default="auto")
    p.add_argument("--max-steps", type=_positive, help="stop early and leave a checkpoint")
    p.add_argument("--threads", type=_positive, help="CPU threads")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="fmbench", description="Model zoo and evaluation benchmark for flow matching.")
    top.add_argument("--version", action="version", version=f"fmbench {fmbench.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, call: Callable[[argparse.Namespace], int], text: str, to: Any = commands
    ) -> argparse.ArgumentParser:
        p = to.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        p.add_argument("--json", action="store_true", help="machine-readable output")
        p.add_argument("--debug", action="store_true", help="show the traceback of an error")
        p.set_defaults(call=call)
        return p

    p = add("list", cmd_list, "names of entries, methods, tasks, benchmarks, metrics")
    p.add_argument("kind", nargs="?", choices=KINDS)
    add("info", cmd_info, "facts about one name").add_argument("name")
    p = add("sample", cmd_sample, "draw samples from an entry")
    p.add_argument("entry", help="task/entry, folder or file.py:Class")
    p.add_argument("-n", type=_positive, default=64)
    p.add_argument("--steps", type=_positive, help="solver steps (default: 32)")
    p.add_argument("--solver", default="euler")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance scale of conditional entries")
    p.add_argument("--label", type=int, help="one class for all samples of a conditional entry")
    p.add_argument("--task", help="task of a file.py:Class")
    p.add_argument("--device", default="auto")
    p.add_argument("-o", "--output", type=Path, default=Path("samples.png"), help=".png or .npy")
    _add_run(add)
    _add_train(add)
    p = add("check", cmd_check, "run the conformance suite on a method")
    p.add_argument("method", help="a method name or file.py:Class")
    p.add_argument("--task", default="gaussian-moons")
    board = commands.add_parser("leaderboard", help="build the leaderboard").add_subparsers(
        required=True, metavar="COMMAND"
    )
    p = add("build", cmd_leaderboard, "tables and page from result files", board)
    p.add_argument("folder", nargs="?", type=Path, help="folder with results/ (default: leaderboard)")
    p.add_argument("--readme", type=Path, help="Markdown file whose marked tables are filled from the results")
    add("sysinfo", cmd_sysinfo, "versions and devices")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    args = parser().parse_args(argv)
    try:
        return args.call(args)
    except KeyboardInterrupt:
        code, message = 130, "interrupted; run the same command again to continue"
    except (ValueError, OSError, RuntimeError) as error:
        if args.debug:
            raise
        code = USAGE if isinstance(error, (UsageError, UnknownName)) else FAILED
        message = str(error) or type(error).__name__
    print(f"fmbench: {' '.join(message.split())}", file=sys.stderr)
    return code
