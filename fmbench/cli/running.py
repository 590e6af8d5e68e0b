"""fmbench run."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from fmbench.cli.shared import DONE, FAILED, Add, add_models, print_json, report_problems, whole
from fmbench.evaluation.options import Options
from fmbench.progress import progress_bars


def cmd_run(args: argparse.Namespace) -> int:
    """Evaluate models on a benchmark and print the tables."""
    from fmbench.evaluation.device import resolve_device
    from fmbench.evaluation.plan import plan
    from fmbench.evaluation.run import run
    from fmbench.records import protocol
    from fmbench.report.build import build_leaderboard
    from fmbench.report.profile import print_profile
    from fmbench.report.terminal import print_results

    options = Options(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Options)})
    spec = protocol.read(args.benchmark)
    resolve_device(options.device)
    planned = plan(spec, args.model, options.trainings)
    with progress_bars(not args.json) as progress:
        bar = progress.add_task(spec.name, total=len(planned))

        def report(name: str, _done: int, _steps: int) -> None:
            progress.update(bar, description=name)

        def finished(done: float) -> None:
            progress.update(bar, completed=done)

        models = [one.model for one in planned if one.model is not None]
        outcome = run(args.benchmark, models, args.out, options=options, report=report, finished=finished)
    errors, written = list(outcome.errors), []
    try:
        built = build_leaderboard(args.out)
        written = built.written
        # Files of other runs that had to be left out are said, and do not make this run a failure.
        report_problems(built.problems)
    except ValueError as error:
        # What was measured is saved and shown, whatever else lies in the folder.
        errors.append(f"the tables in {args.out} were not built: {error}")
    report_problems(errors)
    if args.json:
        print_json([r.to_json() for r in outcome.results])
    else:
        print_results(outcome.results, folder=args.out)
        if written:
            print("leaderboard: " + ", ".join(str(path) for path in written))
    if args.profile and not args.json:
        print_profile(outcome.results)
    failed = errors or [r for r in outcome.results if any(row.failed for row in r.rows)]
    return FAILED if failed else DONE


def add(add: Add) -> None:
    """Add the command."""
    p = add("run", cmd_run, "evaluate models on a benchmark")
    add_models(p)
    p.add_argument("--out", type=Path, default=Path("runs"), help="folder for results and tables (default: runs)")
    p.add_argument("--profile", action="store_true", help="also print where the time went (in --json: phases)")
    for field in dataclasses.fields(Options):
        add_option(p, field)


def add_option(p: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    """The flag of a field of :class:`Options`, with its default, help text and bounds."""
    facts = field.metadata
    flag: dict[str, Any] = {"help": facts["help"], "default": field.default}
    if isinstance(field.default, bool):
        flag["action"] = "store_true"
    elif field.default is not None:
        flag["help"] += " (default: %(default)s)"
    if "choices" in facts:
        flag["choices"] = facts["choices"]
    if "kind" in facts:
        flag["type"] = whole(facts["least"], facts.get("words", ()))
    p.add_argument("--" + field.name.replace("_", "-"), **flag)
