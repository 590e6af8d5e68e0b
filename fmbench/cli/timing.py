"""fmbench latency."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fmbench.cli.shared import DONE, FAILED, Add, add_models, device_of, print_json, report_problems
from fmbench.progress import progress_bars

if TYPE_CHECKING:
    from fmbench.evaluation.retiming import Timed

TITLES = ("entries", "sampler", "batch", "p50 ms", "", "CPU ms", "")


def _rows(timed: Timed) -> list[tuple[str, ...]]:
    """One line for every batch size."""
    more = f" +{len(timed.entries) - 1}" if len(timed.entries) > 1 else ""
    head = (timed.entries[0] + more, timed.sampler.label)
    lines = []
    for one in timed.latency.get("batches") or [timed.latency]:
        if one.get("p50") is None:
            lines.append((*head, str(one.get("batch", "")), "-", "", "-", "failed"))
            continue
        half = f"± {1e3 * (one['high'] - one['low']) / 2:.2g}"
        cpu = f"{1e3 * one['cpu']:.3g}"
        lines.append((*head, str(one["batch"]), f"{1e3 * one['p50']:.4g}", half, cpu, "void" if one["void"] else ""))
    return lines


def _print(timed: list[Timed]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(TITLES):
        grid.add_column(title, justify="left" if place in (0, 1, 4, 6) else "right", no_wrap=True)
    for line in (line for one in timed for line in _rows(one)):
        grid.add_row(*map(Text, line))
    Console().print(grid)
    print(
        "milliseconds per batch, 95 % interval of the median; CPU milliseconds per sample; +N entries share a latency"
    )
    reasons = {one["void"] for each in timed for one in each.latency.get("batches") or () if one.get("void")}
    for reason in sorted(reasons):
        print(f"void: {reason}")


def cmd_latency(args: argparse.Namespace) -> int:
    """Measure latencies only."""
    from fmbench.evaluation.retiming import measure_latencies

    device = device_of(args.device)
    with progress_bars(not args.json) as progress:
        bar = progress.add_task("latency", total=None)

        def report(number: int) -> None:
            progress.update(bar, description=f"{number} latencies in turns")

        done = measure_latencies(
            args.benchmark, args.model, args.out, device=device, again=args.overwrite, report=report
        )
    report_problems(done.errors)
    if args.json:
        print_json([{**dataclasses.asdict(one), "sampler": one.sampler.label} for one in done.timed])
    else:
        _print(done.timed)
        if done.written:
            print(f"results in {args.out / 'results'} that have these latencies now: {len(done.written)}")
            print("`fmbench leaderboard build` makes the tables anew")
    return FAILED if done.errors else DONE


def add(add: Add) -> None:
    """Add the command."""
    p = add("latency", cmd_latency, "measure the latency of every architecture and sampler of a benchmark, in turns")
    add_models(p)
    p.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="folder of latency.json and of results that get them (default: runs)",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    p.add_argument("--overwrite", action="store_true", help="measure again what latency.json has")
