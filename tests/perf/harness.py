"""What the harness costs beside what no harness can do without: ``python tests/perf/harness.py``.

Two runs into a fresh folder: ``digits/cfm`` on ``digits`` with 1,000 samples, and the whole of ``quick``. ``BENCHMARK -m ENTRY --limit N``
is another. The seconds are those that results carry as ``phases`` (``fmbench run --profile`` shows the same by entry); the two ratios are

    whole / needed    needed = sampling + features
    core / needed     core = metrics of samples

The anchor of real data counts in both runs, for a user waits for it too. Seconds are wall time: leave the machine alone meanwhile, or
compare ratios of runs that were made in turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fmbench.evaluation.options import Options
from fmbench.evaluation.plan import plan
from fmbench.evaluation.run import run
from fmbench.records import protocol
from fmbench.records.result import Result
from fmbench.report.profile import NEEDED, OTHER, times

PHASES = ("sampling", "features", "core", "flow", "extended", "latency", "cost", "trial", OTHER)
TITLES = ("run", *PHASES, "whole", "whole / needed", "core / needed")


@dataclass(frozen=True)
class Case:
    """What is run: a benchmark, entries (None: all that are bundled), samples per seed (None: those of the benchmark)."""

    benchmark: str
    entries: tuple[str, ...] | None = None
    limit: int | None = None

    @property
    def label(self) -> str:
        """What the table calls it."""
        name = self.benchmark if self.entries is None else f"{self.benchmark} -m {' '.join(self.entries)}"
        return name if self.limit is None else f"{name} --limit {self.limit}"


DEFAULT = (Case("digits", ("digits/cfm",), 1000), Case("quick"))


def seconds(results: Sequence[Result]) -> dict[str, float]:
    """Seconds by phase, summed over results. Raises ValueError for a phase that :data:`PHASES` does not name."""
    total = dict.fromkeys(PHASES, 0.0)
    for result in results:
        for name, spent in times(result).items():
            if name not in total:
                raise ValueError(f"unknown phase {name} in {result.model['name']}; this table has {', '.join(PHASES)}")
            total[name] += spent
    return total


def ratios(spent: dict[str, float]) -> tuple[float, float]:
    """The whole and the core metrics, by sampling and features. Raises ValueError when neither took any time."""
    needed = sum(spent[name] for name in NEEDED)
    if not needed:
        raise ValueError("no second was spent on sampling or features; nothing was run")
    return sum(spent.values()) / needed, spent["core"] / needed


def row(label: str, spent: dict[str, float]) -> str:
    """One line of the table; real points have no ratios, for nobody samples them."""
    figures = [f"{spent[name]:.2f}" for name in PHASES] + [f"{sum(spent.values()):.1f}"]
    shown = [f"{ratio:.2f}" for ratio in ratios(spent)] if any(spent[name] for name in NEEDED) else ["-", "-"]
    return "| " + " | ".join([label, *figures, *shown]) + " |"


def measured(case: Case, workers: int | str) -> list[Result]:
    """Results of a run into a folder of its own. Exits with the first problem: a part of a run has other ratios."""
    models = [one.model for one in plan(protocol.read(case.benchmark), case.entries) if one.model is not None]
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(case.benchmark, models, Path(folder), options=Options(limit=case.limit, workers=workers))
    if outcome.errors:
        raise SystemExit(outcome.errors[0])
    return outcome.results


def main(words: Sequence[str] | None = None) -> None:
    """Run, add up, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", help="instead of the two default runs")
    parser.add_argument("-m", "--model", nargs="+", help="entries; all bundled ones when left out")
    parser.add_argument("--limit", type=int, help="samples per seed")
    parser.add_argument("--workers", default="auto", type=lambda text: text if text == "auto" else int(text))
    parser.add_argument("--each", action="store_true", help="also a line for every result")
    args = parser.parse_args(words)
    if args.benchmark is None and (args.model or args.limit):
        parser.error("--model and --limit need a benchmark")
    cases = [Case(args.benchmark, args.model and tuple(args.model), args.limit)] if args.benchmark else DEFAULT
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS')}")
    print("| " + " | ".join(TITLES) + " |\n|" + ":---|" + "---:|" * (len(TITLES) - 1))
    for case in cases:
        results = measured(case, args.workers)
        for result in results if args.each else ():
            print(row(str(result.model["name"]), seconds([result])), flush=True)
        print(row(case.label, seconds(results)), flush=True)


if __name__ == "__main__":
    main()
