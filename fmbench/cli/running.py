"""fmbench run."""

from __future__ import annotations

import argparse
from pathlib import Path

from fmbench.cli.shared import DONE, FAILED, Add, device_of, positive, print_json, report_problems
from fmbench.evaluation.acceleration import COMPILE, DTYPES
from fmbench.progress import progress_bars


def cmd_run(args: argparse.Namespace) -> int:
    """Evaluate models on a benchmark and print the tables."""
    from fmbench.evaluation.acceleration import Acceleration
    from fmbench.evaluation.evaluation import Options
    from fmbench.evaluation.run import plan, run
    from fmbench.records import protocol
    from fmbench.report.build import build_leaderboard
    from fmbench.report.terminal import print_results

    device = device_of(args.device)
    options = Options(
        args.batch_size,
        args.limit,
        args.seed_set,
        args.overwrite,
        Acceleration(args.dtype, args.channels_last, args.compile),
    )
    spec = protocol.read(args.benchmark)
    total = len(list(plan(spec, args.model, device)))
    with progress_bars(not args.json) as progress:
        bar = progress.add_task(spec.name, total=total)

        def report(name: str, _done: int, _steps: int) -> None:
            progress.update(bar, description=name)

        def finished(done: int) -> None:
            progress.update(bar, completed=done)

        outcome = run(
            args.benchmark, args.model, args.out, options=options, device=device, report=report, finished=finished
        )
    built = build_leaderboard(args.out)
    # Files of other runs that had to be left out are said, and do not make this run a failure.
    report_problems([*outcome.errors, *built.problems])
    if args.json:
        print_json([r.to_json() for r in outcome.results])
    else:
        print_results(outcome.results, folder=args.out)
        print("leaderboard: " + ", ".join(str(path) for path in built.written))
    failed = outcome.errors or [r for r in outcome.results if any(row.failed for row in r.rows)]
    return FAILED if failed else DONE


def add(add: Add) -> None:
    """The command."""
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
    p.add_argument("--batch-size", type=positive, default=1024, help="samples per network call (default: 1024)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--limit", type=positive, help="samples per seed; the result is marked and never ranked")
    p.add_argument(
        "--seed-set", type=int, default=0, help="k shifts the evaluation seeds by 1000 k; not ranked unless 0"
    )
    p.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the network while it samples; not ranked unless float32"
    )
    p.add_argument(
        "--compile", choices=COMPILE, default="none", help="torch.compile the network; not ranked unless none"
    )
    p.add_argument("--channels-last", action="store_true", help="memory format of images; not ranked")
    p.add_argument("--overwrite", action="store_true", help="evaluate again what is already there")
