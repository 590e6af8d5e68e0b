"""How long a leaderboard takes to build, by number of results: ``python tests/perf/report.py``.

Results are made up from one committed file: every entry gets an effect of its own and every seed noise of its own. They are written once, then
read, compared and shown as ``fmbench leaderboard build`` does. ``--tables`` spreads them over so many tasks; one is the hardest case.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import pstats
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fmbench.records import result
from fmbench.records.result import Estimate, Result
from fmbench.report.build import build_leaderboard
from fmbench.storage.bundled import data_folder

MODEL = "results/transport-2d/gaussian-moons/cfm.json"


def varied(estimate: Estimate, effect: float, random: np.random.Generator) -> Estimate:
    """An estimate of another entry: ``effect`` in per cent, and per cents of noise for every seed. A sparse null stays one."""
    if estimate.value is None or estimate.ci is None:
        return estimate
    seeds = np.array(estimate.details.get("per_seed", [estimate.value]))
    moved = seeds * (1 + effect) * (1 + 0.01 * random.standard_normal(len(seeds)))
    value, half = float(moved.mean()), (estimate.ci[1] - estimate.ci[0]) / 2
    details = {k: v for k, v in estimate.details.items() if k != "per_seed"}
    if "per_seed" in estimate.details:
        details["per_seed"] = tuple(moved.tolist())
    return dataclasses.replace(estimate, value=value, ci=(max(value - half, 0.0), value + half), details=details)


def made_up(model: Result, number: int, tables: int) -> Result:
    """Result ``number``; its samples and weights are nobody else's."""
    random = np.random.default_rng(number)
    effect = 0.3 * random.random()
    rows = tuple(
        dataclasses.replace(
            row,
            metrics={name: varied(e, effect, random) for name, e in row.metrics.items()},
            samples={**row.samples, "sha256": random.bytes(32).hex()},
        )
        for row in model.rows
    )
    task = f"task-{number % tables}"
    facts = {"name": f"{task}/entry-{number}", "weights_sha256": random.bytes(32).hex()}
    return dataclasses.replace(model, rows=rows, model={**model.model, **facts}, task={**model.task, "name": task})


def seconds(count: int, tables: int, profile: bool) -> tuple[float, float]:
    """Wall and processor seconds of one build of ``count`` results."""
    model = result.read(data_folder("leaderboard") / MODEL)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            made_up(model, number, tables).save(Path(folder) / "results")
        profiler = cProfile.Profile()
        wall, cpu = time.perf_counter(), time.process_time()
        if profile:
            profiler.enable()
        built = build_leaderboard(Path(folder))
        profiler.disable()
        spent = time.perf_counter() - wall, time.process_time() - cpu
        if built.problems:
            sys.exit(f"{len(built.problems)} results could not be read; the first: {built.problems[0]}")
        if profile:
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)
    return spent


def main(words: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000], help="numbers of results")
    parser.add_argument("--tables", type=int, default=9, help="tasks they are spread over")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    args = parser.parse_args(words)
    print("| results | tables | wall s | cpu s |\n|---:|---:|---:|---:|")
    for count in args.sizes:
        wall, cpu = seconds(count, args.tables, args.profile)
        print(f"| {count:,} | {args.tables} | {wall:.1f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
